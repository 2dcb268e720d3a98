"""One trial: train a network by its configuration, write its file, look at validation data."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

import billhook
from billhook.errors import StateError
from billhook.study.family import Examples, Split, family
from billhook.study.grid import Trial
from billhook.study.sizes import CODINGS

__all__ = ["Outcome", "Progress", "load_model", "train"]

_REPORT_EVERY = 50  # steps


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a trial stands; ``metric`` is the family's first one on validation data."""

    identity: str
    step: int
    steps: int
    sparsity: float
    metric: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial came to: bytes of the file written, NNZ in it, the validation metrics."""

    bytes: int
    nonzero: int
    validation: dict[str, float]


def train(trial: Trial, file: Path, report: Callable[[Progress], None]) -> Outcome:
    """Train ``trial`` and write its network to ``file``.

    The configuration determines the result: the seed's split, the initial weights and the order of
    the examples come from the seed alone, so the arms of a seed share split and order. The test
    examples are not touched.

    Raises:
        StateError: the loss is no longer finite.
    """
    models = family(trial.family)
    split = models.split(trial.seed, trial.data)
    model = _train_model(trial, split, report)
    billhook.save(model, file, encoding=CODINGS)
    nonzero = sum(int(tensor.count_nonzero()) for tensor in model.state_dict().values())
    validation = dict(models.evaluate(model, split.validation))
    return Outcome(file.stat().st_size, nonzero, validation)


def load_model(trial: Trial, file: Path) -> nn.Module:
    """The trained network of ``trial``, read from the file it was written to."""
    model = family(trial.family).build(trial.width)
    model.load_state_dict(billhook.load(file))
    return model


def _train_model(trial: Trial, split: Split, report: Callable[[Progress], None]) -> nn.Module:
    models, recipe = family(trial.family), trial.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = models.build(trial.width)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=trial.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    schedule = None if trial.pruning is None else trial.pruning.schedule(trial.sparsity)
    pruner = None if schedule is None else billhook.Pruner(model, optimizer, schedule)
    for step, (inputs, targets) in enumerate(_batches(trial, split.train), start=1):
        optimizer.zero_grad()
        loss = models.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        decay.step()
        if step % _REPORT_EVERY == 0 or step == recipe.steps:
            _check_finite(trial, step, loss.item())
            metric = models.evaluate(model, split.validation)[models.metrics[0].name]
            sparsity = 0.0 if schedule is None else schedule(step)
            report(Progress(trial.identity, step, recipe.steps, sparsity, metric))
    if pruner is not None:
        pruner.finalize()
    return model


def _batches(trial: Trial, examples: Examples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``steps`` batches: epoch after epoch in a new order, the last short batch left out."""
    size, left = trial.training.batch_size, trial.training.steps
    generator = np.random.default_rng([trial.seed, 1])
    while True:
        order = torch.from_numpy(generator.permutation(len(examples)))
        inputs, targets = examples.inputs[order], examples.targets[order]
        for start in range(0, len(examples) - size + 1, size):
            if left == 0:
                return
            left -= 1
            yield inputs[start : start + size], targets[start : start + size]


def _check_finite(trial: Trial, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise StateError(
            f"the loss of {trial.identity} is {loss} at step {step}: take learning rate "
            f"{trial.learning_rate:g} out of the study or lower it"
        )
