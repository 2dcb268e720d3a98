"""One trial: train a network by its configuration, write its file, look at validation data.

Its folder gets ``model.billhook.safetensors`` and ``metrics.csv``, a line an evaluation.
"""

import csv
import dataclasses
import math
import time
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

__all__ = ["MODEL_FILE", "Outcome", "Progress", "load_model", "run_trial"]

MODEL_FILE = "model.billhook.safetensors"

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
    """What a trial came to; the fields are those of :class:`billhook.study.rows.Row`."""

    parameters: int
    nonzero: int
    bytes: int
    bytes_dense: int
    bytes_bitmask: int
    bytes_relative_index: int
    bytes_entropy: int
    training_operations: int
    inference_operations: int
    seconds: float
    validation: dict[str, float]


def run_trial(trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Outcome:
    """Train ``trial`` in ``folder``, which exists, and leave its network there.

    The configuration determines the result: the seed's split, the initial weights and the order of
    the examples come from the seed alone, so the arms of a seed share split and order. The test
    examples are not touched.

    Raises:
        StateError: the loss is no longer finite.
    """
    models = family(trial.family)
    split = models.split(trial.seed, trial.data)
    started = time.monotonic()
    lines: list[dict[str, float]] = []
    model = _train_model(trial, split, report, lines)
    _write_lines(folder / "metrics.csv", lines)
    billhook.save(model, folder / MODEL_FILE, encoding=CODINGS)
    parameters = list(model.parameters())
    matrices = [each.detach() for each in parameters if each.dim() > 1]
    examples = trial.steps * trial.training.batch_size
    sizes = billhook.footprint(model)
    return Outcome(
        parameters=sum(each.numel() for each in parameters),
        nonzero=sum(int(each.detach().count_nonzero()) for each in parameters),
        bytes=(folder / MODEL_FILE).stat().st_size,
        bytes_dense=sizes.file_bytes("dense"),
        bytes_bitmask=sizes.file_bytes(("dense", "bitmask")),
        bytes_relative_index=sizes.file_bytes(("dense", "relative_index")),
        bytes_entropy=sizes.file_bytes(("dense", "entropy")),
        training_operations=3 * examples * sum(each.numel() for each in matrices),
        inference_operations=sum(int(each.count_nonzero()) for each in matrices),
        seconds=time.monotonic() - started,
        validation=dict(models.evaluate(model, split.validation)),
    )


def load_model(trial: Trial, folder: Path) -> nn.Module:
    """The trained network of ``trial``, read from the file it was written to."""
    model = family(trial.family).build(int(trial.width))
    model.load_state_dict(billhook.load(folder / MODEL_FILE))
    return model


def _write_lines(path: Path, lines: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _train_model(
    trial: Trial,
    split: Split,
    report: Callable[[Progress], None],
    lines: list[dict[str, float]],
) -> nn.Module:
    models, recipe = family(trial.family), trial.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = models.build(int(trial.width))
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
            metrics = models.evaluate(model, split.validation)
            sparsity = 0.0 if schedule is None else schedule(step)
            rate = decay.get_last_lr()[0]
            line = {"step": step, "lr": rate, "sparsity": sparsity, "train_loss": loss.item()}
            lines.append(line | dict(metrics))
            metric = metrics[models.metrics[0].name]
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
