"""No model from before ``end_step`` is the best one of a ModelCheckpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from billhook.integrations.lightning import PruningCallback
from tests.integrations.lightning_runs import SCHEDULE, STEPS, Module, sparsity_of, trainer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]


class Validated(Module):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", float(sparsity_of(self)))

    def val_dataloader(self) -> Any:
        return DataLoader(torch.zeros(1, 1))  # type: ignore[arg-type]


def _best(folder: Path, module: Module, checkpoint: ModelCheckpoint, **kwargs: Any) -> int:
    """The step of the best model of a whole run, once it was seen to be sparse."""
    trainer = trainer_of(
        folder, PruningCallback(SCHEDULE), checkpoint, enable_checkpointing=True, **kwargs
    )
    trainer.fit(module)
    saved = torch.load(checkpoint.best_model_path)
    best = Module()
    best.load_state_dict(saved["state_dict"])
    assert sparsity_of(best) == pytest.approx(0.8)
    assert all(_sparsity_of(path) == pytest.approx(0.8) for path in checkpoint.best_k_models)
    return int(saved["global_step"])


def _sparsity_of(path: str) -> float:
    module = Module()
    module.load_state_dict(torch.load(path)["state_dict"])
    return sparsity_of(module)


@pytest.mark.parametrize("top", [1, 2, -1])
def test_no_dense_model_is_the_best_one(tmp_path: Path, said: list[str], top: int) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "{step}", monitor="score", save_top_k=top)
    assert _best(tmp_path, Validated(), checkpoint) == 18  # the first epoch's end since step 17
    assert checkpoint.best_model_score == pytest.approx(0.8)
    assert len(checkpoint.best_k_models) == (1 if top == 1 else 2)
    assert "'score') forgets models from before end_step; these files stay:" in "".join(said)
    assert (tmp_path / "step=6.ckpt").exists()  # forgotten, not deleted


def test_a_score_of_a_denser_model_does_not_count(tmp_path: Path, said: list[str]) -> None:
    """The models of step 17 and 18 are sparse, but the last score is that of step 12."""
    checkpoint = ModelCheckpoint(tmp_path, "{step}", monitor="score", every_n_train_steps=1)
    assert _best(tmp_path, Validated(), checkpoint) == 19
    assert checkpoint.best_model_score == pytest.approx(0.8)
    assert "forgets scores from before end_step" in "".join(said)


def test_best_of_a_training_score_and_of_no_score(tmp_path: Path) -> None:
    by_step: Any = {"every_n_train_steps": 1}
    checkpoint = ModelCheckpoint(tmp_path / "a", "{step}", monitor="train_score", **by_step)
    assert _best(tmp_path, Module(), checkpoint) >= 19  # an epoch that began at step 18
    assert _best(tmp_path, Module(), ModelCheckpoint(tmp_path / "b")) == STEPS


def test_nothing_saved_since_end_step_leaves_no_best_model(tmp_path: Path, said: list[str]) -> None:
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=16)
    trainer = trainer_of(tmp_path, PruningCallback(SCHEDULE), checkpoint, enable_checkpointing=True)
    trainer.fit(Module())
    assert checkpoint.best_model_path == ""
    assert "nothing was saved since end_step 17" in said[-1]


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # resumed at epoch's end
def test_best_models_stay_forgotten_over_a_resume(tmp_path: Path) -> None:
    def trainer(max_steps: int) -> tuple[Trainer, ModelCheckpoint]:
        best = ModelCheckpoint(tmp_path, "best-{step}", monitor="score", save_last=True)
        callbacks = PruningCallback(SCHEDULE), best
        return trainer_of(
            tmp_path, *callbacks, enable_checkpointing=True, max_steps=max_steps
        ), best

    trainer(18)[0].fit(Validated())
    resumed, best = trainer(STEPS)
    resumed.fit(Validated(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert best.best_model_path.endswith("best-step=18.ckpt")
    assert list(best.best_k_models) == [best.best_model_path]
