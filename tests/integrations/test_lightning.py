from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

import billhook
from billhook import OneShot, Pruner
from billhook.errors import ConfigurationError, StateError
from billhook.integrations.lightning import PruningCallback
from tests.integrations.conftest import (
    assert_same_optimizer,
    assert_same_weights,
    run_until_killed,
)
from tests.integrations.lightning_runs import (
    SCHEDULE,
    STEPS,
    Module,
    fit,
    loss_of,
    net_of_two,
    saving_in,
    sparsity_of,
    trainer_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]


def test_a_killed_run_resumes_to_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    run_until_killed(f"tests.integrations.lightning_runs:fit({str(tmp_path)!r}, kill=13)")
    last = tmp_path / "saved" / "step=10.ckpt"
    assert torch.load(last)["callbacks"]["PruningCallback"]["pruner"]["step"] == 10
    module, pruning, trainer = fit(str(tmp_path), resume=str(last))
    expected, uninterrupted, other = fit(str(tmp_path / "uninterrupted"))
    assert pruning.pruner is not None
    assert uninterrupted.pruner is not None
    assert pruning.pruner.step_count == trainer.global_step == STEPS
    assert_same_weights(module, expected)
    assert_same_optimizer(trainer.optimizers[0], other.optimizers[0])
    masks = uninterrupted.pruner.masks
    assert all(torch.equal(mask, masks[name]) for name, mask in pruning.pruner.masks.items())
    assert sparsity_of(module) == pytest.approx(0.8)


def test_accumulation_and_clipping_equal_the_loop_written_out(tmp_path: Path) -> None:
    module, pruning = Module(), PruningCallback(SCHEDULE, regrow=False)
    trainer_of(tmp_path, pruning, accumulate_grad_batches=2, gradient_clip_val=0.1).fit(module)

    net = net_of_two()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    pruner = Pruner(net, optimizer, SCHEDULE, regrow=False)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(2):
            (loss_of(net, 2 * step + part) / 2).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    assert pruning.pruner is not None
    assert pruning.pruner.step_count == pruner.step_count == STEPS
    assert_same_weights(module.net, net)


def test_sparsity_is_logged_by_the_trainers_logger(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer = trainer_of(tmp_path, PruningCallback(SCHEDULE), logger=logger, log_every_n_steps=1)
    trainer.fit(Module())
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    logged = {
        int(row[names.index("step")]) + 1: float(row[names.index("sparsity")])
        for row in (line.split(",") for line in rows[1:])
    }
    assert logged.keys() == set(range(1, STEPS + 1))
    assert all(value == pytest.approx(SCHEDULE(step), abs=0.01) for step, value in logged.items())


class Stop(Callback):
    """Ends a fit early, as early stopping does, or with an exception."""

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True
            if self.error is not None:
                raise self.error


def test_a_run_that_ends_too_soon_says_what_it_reached(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"12 of the 17 .* are 75.00% sparse, not 80.00%"):
        trainer_of(tmp_path, PruningCallback(SCHEDULE), Stop(12)).fit(Module())


@pytest.mark.parametrize("limits", [{"max_steps": 12}, {"max_steps": -1, "max_epochs": 2}])
def test_a_window_beyond_the_run_is_refused_before_the_first_step(
    tmp_path: Path, limits: dict[str, Any]
) -> None:
    module, fresh = Module(), Module()
    trainer = trainer_of(tmp_path, PruningCallback(OneShot(0.5, 0, 17, frequency=17)), **limits)
    with pytest.raises(ConfigurationError, match="run ends at step 12, .* end_step is 17.*step=9"):
        trainer.fit(module)
    assert trainer.global_step == 0
    assert_same_weights(module, fresh)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_exception_leaves_the_module_free_for_another_run(
    tmp_path: Path, error: BaseException
) -> None:
    module, pruning = Module(), PruningCallback(SCHEDULE)
    interrupted = trainer_of(tmp_path, pruning, Stop(9, error), logger=False)
    with pytest.raises((RuntimeError, SystemExit)):
        interrupted.fit(module)
    assert pruning.pruner is not None
    assert not pruning.pruner.is_attached
    other = PruningCallback(OneShot(0.9, 2))
    with pytest.warns(UserWarning, match="are zero but not masked"):
        trainer_of(tmp_path, other).fit(module)
    assert sparsity_of(module) == pytest.approx(0.9)
    assert pruning.state_dict()["pruner"]["step"] == 9  # a checkpoint made on the way out


def test_a_fit_goes_on_after_an_exception(tmp_path: Path) -> None:
    module, pruning = Module(), PruningCallback(SCHEDULE)
    trainer = trainer_of(tmp_path, pruning, Stop(9, RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(module)
    trainer.fit(module)
    assert pruning.pruner is not None
    assert pruning.pruner.step_count == STEPS
    assert sparsity_of(module) == pytest.approx(0.8)


def test_two_callbacks_with_rules_of_their_own_prune_side_by_side(tmp_path: Path) -> None:
    def callbacks() -> list[PruningCallback]:
        rules: Any = {"net.2": None}, {"net.0": None, nn.Linear: 0.5}
        return [
            PruningCallback(SCHEDULE, rules=rules[0]),
            PruningCallback(OneShot(0.7, 5), rules=rules[1]),
        ]

    module, first = Module(), callbacks()
    saving = saving_in(tmp_path, every_n_train_steps=10)
    trainer_of(tmp_path, *first, saving, enable_checkpointing=True).fit(module)
    resumed, second = Module(), callbacks()
    trainer_of(tmp_path, *second).fit(resumed, ckpt_path=str(tmp_path / "saved" / "step=10.ckpt"))
    assert_same_weights(resumed, module)
    for callback, nonzero in zip(second, (40, 50), strict=True):
        assert callback.pruner is not None
        assert callback.pruner.report().nonzero == nonzero


def test_fast_dev_run_leaves_the_target_unchecked_and_says_so(
    tmp_path: Path, said: list[str]
) -> None:
    trainer_of(tmp_path, PruningCallback(SCHEDULE), fast_dev_run=True).fit(Module())
    assert said[-1] == "fast_dev_run: pruning stops at step 1, unchecked"


def test_a_finished_run_resumed_is_checked_and_holds_its_masks(tmp_path: Path) -> None:
    path = tmp_path / "end.ckpt"
    trainer = trainer_of(tmp_path, PruningCallback(SCHEDULE))
    trainer.fit(Module())
    trainer.save_checkpoint(path)
    pruning = PruningCallback(SCHEDULE)
    trainer_of(tmp_path, pruning).fit(Module(), ckpt_path=path)
    assert pruning.pruner is not None
    assert pruning.pruner.report().nonzero == 60
    module = Module()
    trainer_of(tmp_path, PruningCallback(SCHEDULE), max_steps=30).fit(module, ckpt_path=path)
    assert sparsity_of(module) == pytest.approx(0.8)


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    module, pruning = Module(), PruningCallback(SCHEDULE)
    trainer = trainer_of(tmp_path, pruning, Stop(12))
    with pytest.raises(StateError, match="12 of the 17"):
        trainer.fit(module)
    trainer.fit(module)
    assert pruning.pruner is not None
    assert pruning.pruner.step_count == STEPS
    assert sparsity_of(module) == pytest.approx(0.8)


def test_a_checkpoint_without_or_with_foreign_masks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.ckpt"
    plain = trainer_of(tmp_path, max_steps=6)
    plain.fit(Module())
    plain.save_checkpoint(path)
    with pytest.raises(StateError, match=r"at step 6 of '.*plain.ckpt', which has no pruner"):
        trainer_of(tmp_path, PruningCallback(SCHEDULE)).fit(Module(), ckpt_path=path)

    fit(str(tmp_path))
    saved = torch.load(tmp_path / "saved" / "step=10.ckpt")
    saved["state_dict"] = Module().state_dict()
    torch.save(saved, path)
    pruning = PruningCallback(SCHEDULE)
    with pytest.raises(StateError, match=r"1\d\d weights of 'net.0.weight' were not zero where"):
        trainer_of(tmp_path, pruning).fit(Module(), ckpt_path=path)
    with pytest.raises(StateError, match="schedule was 'Cubic.*0.8.*is 'OneShot"):
        trainer_of(tmp_path, PruningCallback(OneShot(0.5))).fit(
            Module(), ckpt_path=tmp_path / "saved" / "step=10.ckpt"
        )


def test_weights_written_at_the_end_of_training_are_an_error(tmp_path: Path) -> None:
    class Averaging(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with torch.no_grad():
                pl_module.get_parameter("net.0.weight").fill_(1.0)

    with pytest.raises(StateError, match="160 weights of 'net.0.weight' were written where"):
        trainer_of(tmp_path, PruningCallback(SCHEDULE), Averaging()).fit(Module())


def test_an_option_that_pruner_lacks_is_refused_at_once() -> None:
    options: Any = {"granularty": None}
    with pytest.raises(TypeError, match="unexpected keyword argument 'granularty'"):
        PruningCallback(SCHEDULE, **options)


def test_what_is_not_a_schedule_is_refused_at_once() -> None:
    schedule: Any = 0.9
    with pytest.raises(ConfigurationError, match=r"schedule is 0\.9: give one such as"):
        PruningCallback(schedule)


def test_two_optimizers_the_first_counts(tmp_path: Path) -> None:
    class Two(Module):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            nets = self.net[0], self.net[2]
            return [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            first, second = self.optimizers()  # type: ignore[attr-defined]
            self.manual_backward(loss_of(self.net, batch_idx))
            second.step()
            first.step()

    pruning = PruningCallback(SCHEDULE)
    trainer_of(tmp_path, pruning, max_steps=2 * STEPS).fit(Two())
    assert pruning.pruner is not None
    assert pruning.pruner.step_count == STEPS


class Distilled(Module):
    """The dense network is an attribute; training_step mixes in what it says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        dense = nn.Sequential(nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 5))
        self.teacher = billhook.Teacher(dense, hardness=0.6, temperature=4.0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        number = self.trainer.fit_loop.total_batch_idx
        x = torch.randn(8, 10, generator=torch.Generator().manual_seed(number))
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, torch.arange(8) % 5)
        return self.teacher.mix(loss, logits, self.teacher(x))


def test_a_teacher_is_learnt_from_and_neither_pruned_nor_saved(tmp_path: Path) -> None:
    module, pruning = Distilled(), PruningCallback(SCHEDULE)
    dense = module.teacher.network
    before = [parameter.clone() for parameter in dense.parameters()]
    saving = saving_in(tmp_path, every_n_train_steps=STEPS)
    trainer_of(tmp_path, saving, pruning, enable_checkpointing=True).fit(module)
    assert all(map(torch.equal, before, dense.parameters()))
    assert sparsity_of(module) == pytest.approx(0.8)
    saved = torch.load(next((tmp_path / "saved").iterdir()), weights_only=False)
    assert set(saved["state_dict"]) == set(Module().state_dict())

    alone = net_of_two()  # the same run by hand
    optimizer = torch.optim.AdamW(alone.parameters(), lr=0.05)
    pruner = Pruner(alone, optimizer, SCHEDULE)
    for step in range(STEPS):
        x = torch.randn(8, 10, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        labels = torch.arange(8) % 5
        billhook.distillation_loss(alone(x), dense(x), labels, 0.6, 4.0).backward()
        optimizer.step()
    pruner.finalize()
    for ours, theirs in zip(module.net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
