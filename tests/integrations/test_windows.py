"""Windows in shares of a run, or in epochs, in both frameworks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from billhook import Cubic
from billhook.errors import ConfigurationError
from billhook.integrations.lightning import PruningCallback
from billhook.integrations.run_length import RunLength
from billhook.integrations.transformers import PruningCallback as HuggingFaceCallback
from tests.integrations.lightning_runs import STEPS, Module, saving_in, sparsity_of, trainer_of
from tests.integrations.test_transformers import _sparsity, _trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]

Function = Callable[[RunLength], Cubic]


def test_a_length_says_where_a_window_lies() -> None:
    run = RunLength(1_000, 96)
    assert (run.share(0), run.share(0.3333), run.share(1)) == (0, 333, 1_000)
    assert (run.epoch(0), run.epoch(0.5), run.epoch(3)) == (0, 48, 288)
    for part in (1.5, -0.1):
        with pytest.raises(ConfigurationError, match="from 0 to 1"):
            run.share(part)
    with pytest.raises(ConfigurationError, match="0 or more"):
        run.epoch(-1)
    with pytest.raises(ConfigurationError, match=r"share\(0.25\)"):
        RunLength(10).epoch(1)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda run: Cubic(0.8, run.share(0.1), run.share(0.75), frequency=3),
        lambda run: Cubic(0.8, run.epoch(0.5), run.epoch(3), frequency=3),
    ],
    ids=["shares", "epochs"],
)
def test_a_window_in_shares_or_epochs_stays_the_same_when_a_run_goes_on(
    tmp_path: Path, schedule: Function
) -> None:
    pruning, saving = PruningCallback(schedule), saving_in(tmp_path, every_n_train_steps=8)
    module = Module()
    trainer = trainer_of(tmp_path, saving, pruning, enable_checkpointing=True)
    trainer.fit(module)
    assert pruning.schedule.end_step == 18
    assert 2 <= pruning.schedule.begin_step <= 3
    assert sparsity_of(module) == pytest.approx(0.8)
    longer = PruningCallback(schedule)
    last = tmp_path / "saved" / "step=8.ckpt"
    trainer_of(tmp_path, longer, max_steps=2 * STEPS).fit(Module(), ckpt_path=last)
    assert longer.schedule == pruning.schedule


def test_a_function_of_a_run_of_unknown_length_is_refused(tmp_path: Path) -> None:
    class Manual(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ConfigurationError, match="length, which is not known"):
        trainer_of(tmp_path, PruningCallback(lambda run: Cubic.over(run.steps, 0.5))).fit(Manual())
    with pytest.raises(ConfigurationError, match="schedule is 3: give"):
        trainer_of(tmp_path, PruningCallback(lambda _: 3)).fit(Module())  # type: ignore[arg-type,return-value]
    module = Module()
    dry = PruningCallback(lambda run: Cubic.over(run.steps, 0.5))
    trainer_of(tmp_path, dry, fast_dev_run=True).fit(module)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda run: Cubic(0.8, run.share(0.1), run.share(0.8), frequency=3),
        lambda run: Cubic(0.8, run.epoch(0.4), run.epoch(3.2), frequency=3),
    ],
    ids=["shares", "epochs"],
)
def test_hugging_faces_runs_have_such_windows_and_keep_them(
    tmp_path: Path, schedule: Function
) -> None:
    pruning = HuggingFaceCallback(schedule)
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5}
    epochs = {"max_steps": -1, "gradient_accumulation_steps": 2}  # 5 steps each
    first = _trainer(tmp_path, pruning, num_train_epochs=4, **epochs, **saving)
    first.train()
    assert (pruning.schedule.begin_step, pruning.schedule.end_step) == (2, 16)
    assert _sparsity(first.model) == pytest.approx(0.8, abs=0.01)
    longer = HuggingFaceCallback(schedule)
    again = _trainer(tmp_path, longer, num_train_epochs=6, **epochs)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert longer.schedule == pruning.schedule
    shorter = HuggingFaceCallback(schedule)
    ended = _trainer(tmp_path, shorter, num_train_epochs=3, **epochs)
    with pytest.raises(ConfigurationError, match="ends at step 15, but the schedule's end_step"):
        ended.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
