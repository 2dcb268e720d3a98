"""Beside the rows: how the chosen networks trained, and what was left of their tensors.

``curves.csv`` has a line an evaluation: run, step, sparsity, learning_rate, train_loss and the
metrics on validation data. ``layers.csv`` has a line a tensor: run, tensor, size, nonzero.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import billhook
from billhook.training.loop import MODEL_FILE

__all__ = ["Line", "as_csv", "curve_lines", "layer_lines", "read_table"]

Line = Mapping[str, object]
"""A line of a CSV file by column."""

_RENAMED = {"lr": "learning_rate"}  # in a run's metrics.csv -> in curves.csv
_LEFT_OUT = {"seconds"}


def curve_lines(folder: Path) -> list[Line]:
    """The lines of ``curves.csv`` for the run in ``folder``, from its ``metrics.csv``."""
    return [
        {"run": folder.name}
        | {_RENAMED.get(key, key): value for key, value in line.items() if key not in _LEFT_OUT}
        for line in read_table(folder / "metrics.csv")
    ]


def layer_lines(folder: Path) -> list[Line]:
    """The lines of ``layers.csv`` for the run in ``folder``, from its model file."""
    return [
        {
            "run": folder.name,
            "tensor": name,
            "size": tensor.numel(),
            "nonzero": int(tensor.count_nonzero()),
        }
        for name, tensor in billhook.load(folder / MODEL_FILE).items()
    ]


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_csv(lines: Sequence[Line]) -> str:
    """Their CSV text, the columns those of the first line."""
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
