"""Gradual pruning in the Hugging Face Trainer."""

import logging
import math
import os
from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor, nn

from billhook import Teacher
from billhook.atomic import replacing
from billhook.errors import ConfigurationError, StateError
from billhook.integrations.callback import AttachesPruner
from billhook.integrations.run_length import RunLength
from billhook.schedule import Schedule

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise ImportError(
        "billhook.integrations.transformers needs transformers and accelerate: "
        "pip install 'billhook[transformers]'"
    ) from error

__all__ = ["PRUNER_NAME", "DistillingTrainer", "PruningCallback"]

_log = logging.getLogger("billhook")

#: The pruner's file in a checkpoint folder, beside the Trainer's optimizer.pt.
PRUNER_NAME = "pruner.pt"


class PruningCallback(AttachesPruner, TrainerCallback):
    """Prunes the model while ``Trainer.train`` trains it; everything else stays as it was.

    The pruner (:attr:`pruner`) is made when training begins and finalized when it ends. Its state
    is the file ``pruner.pt`` in every checkpoint folder, and ``train(resume_from_checkpoint=...)``
    goes on from there. The Trainer does not tell a callback which folder that is, so the callback
    looks in ``args.output_dir``, or in ``TrainingArguments(resume_from_checkpoint=...)`` if given.

    No model from before ``end_step`` is the best one: there the Trainer's best metric and best
    checkpoint are forgotten, so that ``load_best_model_at_end`` loads a sparse model.

    Args:
        schedule: sparsity over the optimizer steps, or a function of the :class:`RunLength`.
        options: the keyword options of :class:`billhook.Pruner`.

    Several callbacks, each with ``rules`` that leave the others' weights dense, prune side by side;
    the second saves ``pruner2.pt``, and so on.

    Raises:
        ConfigurationError: when training begins, if ``max_steps`` lies before ``end_step``.
        StateError: when training begins, if the checkpoint has no pruner state or another model's;
            when it ends, if ``end_step`` was not reached.
    """

    def __init__(
        self, schedule: Schedule | Callable[[RunLength], Schedule], **options: Any
    ) -> None:
        super().__init__(schedule, **options)
        self._ended = False
        self._name = PRUNER_NAME

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Model, optimizer and their restored state are all in place only now."""
        if state.is_hyper_param_search:
            raise ConfigurationError(
                "a hyperparameter search keeps each trial's checkpoints in a folder that it does "
                "not tell to a callback: run Trainer.train for each setting"
            )
        name = PRUNER_NAME
        if beside := len(self._beside(state)):
            name = f"{beside + 1}".join(os.path.splitext(name))
        saved = _read(args, state, name) if state.global_step else {}
        optimizer = kwargs["optimizer"]
        while isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        pruner = self._attach(
            kwargs["model"],
            [optimizer],
            saved.get("pruner"),
            run=state,
            steps_left=state.max_steps - state.global_step,
            length=RunLength(state.max_steps, _epoch(args, kwargs.get("train_dataloader"))),
            began=saved.get("length"),
        )
        self._name = name
        self._ended = pruner.step_count >= self.end_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """At end_step, before this step is evaluated and saved, forget the best model so far."""
        assert self.pruner is not None
        if self._ended or self.pruner.step_count < self.end_step:
            return
        self._ended = True
        if state.best_metric is not None:
            _log.info(
                "end_step %d is reached: the best model so far (step %s, metric %s) is from before "
                "it and forgotten",
                self.end_step,
                state.best_global_step,
                state.best_metric,
            )
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.pruner is not None
        if args.should_save:
            path = os.path.join(_folder(args, state), self._name)
            with replacing(path) as file:
                saved = {"step": state.global_step, "pruner": self.pruner.state_dict()}
                torch.save(saved | self._saved_length(), file)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the mask sparsity for ``state.log_history`` and the callbacks after this one."""
        if self.pruner is not None:
            kwargs["logs"]["sparsity"] = self._sparsity()
            state.log_history[-1]["sparsity"] = kwargs["logs"]["sparsity"]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.pruner is not None
        try:
            self.pruner.finalize()
        finally:
            self._stop()
        if args.load_best_model_at_end and state.best_model_checkpoint is None:
            _log.warning(
                "load_best_model_at_end: nothing was evaluated and saved since end_step %d, so "
                "the model stays as the last step left it",
                self.end_step,
            )


class DistillingTrainer(Trainer):
    """A Trainer whose model also learns from a :class:`billhook.Teacher`.

    While it trains, the loss is ``teacher.mix`` of what the Trainer computes and of the divergence
    from the teacher's logits, over the positions whose label is not -100 (of causal language models
    the label of the next token). Losses of evaluation are the model's own.

    ``DistillingTrainer(model, args, ..., teacher=Teacher(dense, hardness=0.9))``

    Args:
        arguments, options: the Trainer's.
        teacher: takes the model's inputs, and has its vocabulary or classes.
    """

    def __init__(self, *arguments: Any, teacher: Teacher, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.teacher = teacher

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's loss, mixed with the teacher's."""
        loss, outputs = super().compute_loss(model, dict(inputs), True, num_items_in_batch)
        if model.training:
            named = {name: value for name, value in inputs.items() if name != "labels"}
            labels = self._labels(model, inputs.get("labels"), outputs.logits)
            loss = self.teacher.mix(
                loss,
                outputs.logits,
                self.teacher(**named).logits,
                labels,
                self._share_of_items(labels, num_items_in_batch),
            )
        return (loss, outputs) if return_outputs else loss

    def _labels(self, model: nn.Module, labels: Tensor | None, logits: Tensor) -> Tensor | None:
        """The label of every position of the logits, or None where they have no such labels."""
        if labels is None or labels.shape != logits.shape[:-1] or labels.is_floating_point():
            return None
        if getattr(self.accelerator.unwrap_model(model), "loss_type", None) != "ForCausalLM":
            return labels
        return nn.functional.pad(labels, (0, 1), value=-100)[..., 1:]

    def _share_of_items(self, labels: Tensor | None, items: Any) -> float | Tensor:
        """What a mean over this batch counts where the Trainer's loss is a mean over all items.

        Those are the items of all batches whose gradients are accumulated.
        """
        if items is None or labels is None or not self.model_accepts_loss_kwargs:
            return 1.0
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        share: Tensor = (labels != -100).sum() * ranks / items
        return share


def _epoch(args: TrainingArguments, data: object) -> int | None:
    """Optimizer steps of one pass through the data, None where it has no length."""
    try:
        batches = len(data) if isinstance(data, Sized) else 0
    except TypeError:  # of an iterable dataset
        return None
    return math.ceil(batches / args.gradient_accumulation_steps) or None


def _folder(args: TrainingArguments, state: TrainerState) -> str:
    assert args.output_dir is not None  # TrainingArguments gives it a default
    return os.path.join(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def _read(args: TrainingArguments, state: TrainerState, name: str) -> dict[str, Any]:
    path = os.path.join(args.resume_from_checkpoint or _folder(args, state), name)
    if not os.path.isfile(path):
        raise StateError(
            f"training resumes at step {state.global_step}, but there is no pruner state {path!r}: "
            "resume from a checkpoint that was saved with this callback, name its folder in "
            "TrainingArguments(resume_from_checkpoint=...) if it is not in output_dir, or start "
            "pruning its weights by loading them into the model first"
        )
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if saved["step"] != state.global_step:
        raise StateError(
            f"training resumes at step {state.global_step}, the pruner state {path!r} is of step "
            f"{saved['step']}: TrainingArguments(resume_from_checkpoint=...) and "
            "train(resume_from_checkpoint=...) name different folders"
        )
    return saved
