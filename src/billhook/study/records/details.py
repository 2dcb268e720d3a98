"""Beside the rows: how the chosen networks trained, and what was left of their tensors.

``curves.csv`` has one line per evaluation: run, step, sparsity, learning_rate, train_loss and the
metrics on validation data. ``layers.csv`` has one line per tensor: run, tensor, size, nonzero.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import billhook
from billhook.study.records.reading import VALUES, read_table
from billhook.training.loop import MODEL_FILE

__all__ = [
    "Line",
    "as_csv",
    "curve_lines",
    "layer_lines",
    "read_curves",
    "read_layers",
    "read_values",
]

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


def read_curves(folder: Path, metrics: Sequence[str] = ()) -> list[dict[str, str]]:
    """The lines of ``curves.csv`` with these metrics; none where the file is not there."""
    numbers = dict.fromkeys(("sparsity", "learning_rate", *metrics), float)
    return _if_there(folder / "curves.csv", {"run": str, "step": int, **numbers})


def read_layers(folder: Path) -> list[dict[str, str]]:
    """The lines of ``layers.csv``; none where the file is not there."""
    columns = {"run": str, "tensor": str, "size": int, "nonzero": int}
    return _if_there(folder / "layers.csv", columns)


def read_values(folder: Path, metrics: Sequence[str]) -> list[dict[str, str]]:
    """The lines of ``values.csv`` with these metrics; none where the file is not there."""
    numbers = dict.fromkeys(metrics, float)
    return _if_there(folder / VALUES, {"run": str, "values": str, "bytes": int, **numbers})


def _if_there(path: Path, columns: Mapping[str, type]) -> list[dict[str, str]]:
    return read_table(path, columns) if path.exists() else []


def as_csv(lines: Sequence[Line]) -> str:
    """Their CSV text, the columns those of the first line."""
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
