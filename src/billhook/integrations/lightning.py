"""Gradual pruning in a Lightning Trainer."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from billhook.errors import StateError
from billhook.integrations.callback import AttachesPruner
from billhook.integrations.run_length import RunLength
from billhook.schedule import Schedule

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.core.optimizer import LightningOptimizer
except ImportError as error:
    raise ImportError(
        "billhook.integrations.lightning needs Lightning: pip install 'billhook[lightning]'"
    ) from error

__all__ = ["PruningCallback"]

_log = logging.getLogger("billhook")


class PruningCallback(AttachesPruner, Callback):
    """Prunes the module while ``trainer.fit`` trains it; the module stays as it was.

    The pruner (:attr:`pruner`) is made when training starts and finalized when the fit ends. Its
    state is in Lightning's checkpoints, and ``fit(ckpt_path=...)`` goes on from there. With several
    optimizers the first that ``configure_optimizers`` returns counts the steps. The sparsity of the
    masks is logged as ``sparsity``.

    No model from before ``end_step`` is the best one: there every ``ModelCheckpoint`` forgets its
    best models (their files stay). It does so once more when the first validation since begins, or
    the first epoch where nothing is validated: no score measured on a denser model counts.

    Args:
        schedule: sparsity over the optimizer steps, or a function of the :class:`RunLength`.
        options: the keyword options of :class:`billhook.Pruner`.

    Raises:
        ConfigurationError: when training starts, if the fit ends before ``end_step``.
        StateError: when training starts, if the checkpoint has no pruner state or another model's;
            when the fit ends, if ``end_step`` was not reached (``fast_dev_run`` only logs it) or if
            something, such as weight averaging, wrote over the zeros.
    """

    def __init__(
        self, schedule: Schedule | Callable[[RunLength], Schedule], **options: Any
    ) -> None:
        super().__init__(schedule, **options)
        self._restored: Mapping[str, Any] | None = None
        self._fitting = False
        self._best_from = 0  # best models since: 0 any step, 1 end_step, 2 scores measured since

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restored = None
        self._fitting = False

    @property
    def state_key(self) -> str:
        """One key per callback with rules: each may prune another part of the module."""
        rules = self.options.get("rules")
        if not rules:
            return super().state_key
        named = {k if isinstance(k, str) else k.__qualname__: v for k, v in rules.items()}
        return self._generate_state_key(rules=named)

    def state_dict(self) -> dict[str, Any]:
        if self._restored is not None:  # a fit that has not started yet
            return dict(self._restored)
        if self.pruner is None:
            return {}
        state = self.pruner.state_dict() if self._stopped is None else self._stopped
        return {"pruner": state, "best_from": self._best_from, **self._saved_length()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Model, optimizers and their restored state are all in place only now."""
        state = self._state_to_go_on_from(trainer)
        optimizers = [
            each.optimizer if isinstance(each, LightningOptimizer) else each
            for each in trainer.optimizers
        ]
        self._attach(
            pl_module,
            optimizers,
            state.get("pruner"),
            run=trainer,
            steps_left=_steps_left(trainer, pl_module),
            length=_length(trainer, pl_module),
            began=state.get("length"),
        )
        self._best_from = state.get("best_from", 0)
        self._restored = None
        self._fitting = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        assert self.pruner is not None
        pl_module.log("sparsity", self._sparsity())
        if self._best_from == 0 and self.pruner.step_count >= self.end_step:
            self._best_from = 1
            _forget_best(trainer, "models from before end_step")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count_scores(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self._count_scores(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the model: the next run may be another one's."""
        self._stop()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the target after every other callback's and the module's own end of training."""
        if not self._fitting:  # the checkpoint was at the end already: check what it holds
            self.on_train_start(trainer, pl_module)
        assert self.pruner is not None
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            _log.info("fast_dev_run: pruning stops at step %d, unchecked", self.pruner.step_count)
            self.pruner.detach()
            return
        self.pruner.finalize()
        self._run = None
        for checkpoint in _best_trackers(trainer):
            if checkpoint.save_top_k != 0 and not checkpoint.best_model_path:
                _log.warning(
                    "ModelCheckpoint(monitor=%r) has no best model: nothing was saved since "
                    "end_step %d",
                    checkpoint.monitor,
                    self.end_step,
                )

    def _state_to_go_on_from(self, trainer: Trainer) -> Mapping[str, Any]:
        if self._restored is not None:
            return self._restored
        if trainer.global_step == 0:
            return {}
        if self.pruner is not None and trainer.ckpt_path is None:  # fit() again
            return self.state_dict()
        raise StateError(
            f"training goes on at step {trainer.global_step} of {str(trainer.ckpt_path)!r}, which "
            "has no pruner state: resume from a checkpoint that was saved with this callback and "
            "the same rules, or, to start pruning, load its weights into the module and call fit() "
            "without ckpt_path"
        )

    def _count_scores(self, trainer: Trainer) -> None:
        if self._best_from == 1:
            self._best_from = 2
            _forget_best(trainer, "scores from before end_step")


def _steps_left(trainer: Trainer, pl_module: LightningModule) -> float:
    """The optimizer steps of the rest of the fit; infinite where the module takes them itself."""
    if trainer.fast_dev_run or not pl_module.automatic_optimization:  # type: ignore[attr-defined]
        return math.inf
    return float(trainer.estimated_stepping_batches) - trainer.global_step


def _length(trainer: Trainer, pl_module: LightningModule) -> RunLength | None:
    """The whole fit's, None where nobody knows it; a dry run's is long enough for any window."""
    steps, batches = float(trainer.estimated_stepping_batches), float(trainer.num_training_batches)
    if not pl_module.automatic_optimization or not math.isfinite(steps):
        return None
    epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
    dry = 100 if trainer.fast_dev_run else 0  # type: ignore[attr-defined]
    return RunLength(max(int(steps), dry), epoch)


def _best_trackers(trainer: Trainer) -> list[Any]:
    """ModelCheckpoint and its like, also those of the pytorch_lightning package."""
    return [each for each in trainer.checkpoint_callbacks if hasattr(each, "best_k_models")]


def _forget_best(trainer: Trainer, what: str) -> None:
    for checkpoint in _best_trackers(trainer):
        files = list(checkpoint.best_k_models) or [checkpoint.best_model_path]
        if files != [""]:
            said = "ModelCheckpoint(monitor=%r) forgets %s; these files stay: %s"
            _log.info(said, checkpoint.monitor, what, ", ".join(files))
        checkpoint.best_k_models = {}
        checkpoint.best_model_path = checkpoint.kth_best_model_path = ""
        checkpoint.best_model_score = checkpoint.current_score = None
        checkpoint.kth_value = torch.tensor(torch.inf if checkpoint.mode == "min" else -torch.inf)
