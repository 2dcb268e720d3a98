"""Beside the rows: how the chosen networks trained, and what was left of their tensors.

``curves.csv`` has a line an evaluation: run, step, sparsity, learning_rate, train_loss and the
metrics on validation data. ``layers.csv`` has a line a tensor: run, tensor, size, nonzero.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import billhook

__all__ = ["curves_as_csv", "layers_as_csv", "read_table"]

_RENAMED = {"lr": "learning_rate"}  # in a run's metrics.csv -> in curves.csv
_LEFT_OUT = {"seconds"}


def curves_as_csv(runs: Iterable[tuple[str, Path]]) -> str:
    """``curves.csv`` of these runs, each its identity and its folder with ``metrics.csv``."""
    lines = [
        {"run": run} | {_RENAMED.get(k, k): v for k, v in line.items() if k not in _LEFT_OUT}
        for run, folder in runs
        for line in read_table(folder / "metrics.csv")
    ]
    return _as_csv(lines)


def layers_as_csv(runs: Iterable[tuple[str, Path]]) -> str:
    """``layers.csv`` of these runs, each its identity and its model file."""
    lines = [
        {"run": run, "tensor": name, "size": tensor.numel(), "nonzero": int(tensor.count_nonzero())}
        for run, file in runs
        for name, tensor in billhook.load(file).items()
    ]
    return _as_csv(lines)


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _as_csv(lines: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
