"""The record of a training run: progress, TensorBoard, one CSV row per evaluation."""

import csv
import io
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from billhook.atomic import write_text
from billhook.errors import StateError
from billhook.pruner import Pruner

__all__ = ["TrainingLog"]

STEPS_BETWEEN = 50  # TensorBoard points of loss and learning rate


class TrainingLog:
    """A context manager around the loop; silent on every process but the main one."""

    def __init__(
        self,
        folder: Path,
        console: Console,
        steps: tuple[int, int],
        *,
        main: bool,
        tensorboard: bool,
    ) -> None:
        """``steps`` are those taken already and those of the whole run."""
        self.folder, self.console, self.main = folder, console, main
        self.tensorboard = main and tensorboard
        self.sparsity = 0.0  # the share of masked weights as of the last update
        self.started = time.monotonic()
        self.loss = float("nan")  # the last one that was noted, for a continued run to go on with
        self._metric = ""
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not main or not console.is_terminal or console.quiet,
        )
        self._bar = self._progress.add_task("", total=steps[1])
        self._board: Any = None
        if main:
            self._rows = _rows_until(self.folder / "metrics.csv", steps[0])

    def __enter__(self) -> "TrainingLog":
        if self.tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"))
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    @property
    def seconds(self) -> float:
        """Since the run was started or continued."""
        return time.monotonic() - self.started

    def step(self, step: int, loss: torch.Tensor, rate: float, pruner: Pruner | None) -> None:
        """After every optimizer step."""
        if not self.main:
            return
        if step % STEPS_BETWEEN == 0 or step == 1:
            self.loss = float(loss)
            if self._board is not None:
                self._board.add_scalar("train/loss", self.loss, step)
                self._board.add_scalar("train/learning_rate", rate, step)
        if pruner is not None and (step in pruner.updates or not self.sparsity):
            self.sparsity = pruner.sparsity
            if self._board is not None and step in pruner.updates:
                self._masks(step, pruner)
        if self._progress.disable:
            return
        self._progress.update(
            self._bar,
            completed=step,
            description=f"loss {self.loss:.3f} {self._metric} sparsity {self.sparsity:.3f} "
            f"lr {rate:.4g}",
        )

    def evaluation(
        self, step: int, metrics: dict[str, float | str], rate: float, pruner: Pruner | None
    ) -> None:
        """After an evaluation: a line, a CSV row, TensorBoard points."""
        if not self.main:
            return
        if pruner is not None:
            self.sparsity = pruner.sparsity
        row: dict[str, float | str | int] = {
            "step": step,
            "seconds": round(self.seconds, 1),
            "lr": rate,
            "sparsity": self.sparsity,
            "train_loss": self.loss,
            **metrics,
        }
        numbers = {key: value for key, value in metrics.items() if not isinstance(value, str)}
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(f"valid/{key}", value, step)
        self._metric = " ".join(f"{key} {value:.2f}" for key, value in numbers.items())
        self.console.print(
            f"step {step}: {self._metric} (loss {self.loss:.3f}, sparsity {self.sparsity:.3f}, "
            f"lr {rate:.4g}, {self.seconds:.0f} s)"
        )
        self._rows.append({key: str(value) for key, value in row.items()})
        self._write_rows()

    def _write_rows(self) -> None:
        """All of them anew: a process that dies or a full disk leaves no half of a line."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self._rows[0]))
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.folder / "metrics.csv", text.getvalue())

    def _masks(self, step: int, pruner: Pruner) -> None:
        """Sparsity and threshold, the smallest kept magnitude, of every pruned tensor."""
        for tensor in pruner.report().tensors:
            self._board.add_scalar(f"sparsity/{tensor.name}", tensor.sparsity, step)
        parameters = {weight.name: weight.parameter for weight, _ in pruner.selection.pruned}
        for name, mask in pruner.masks.items():
            kept = parameters[name].detach()[mask]
            if kept.numel():
                self._board.add_scalar(f"threshold/{name}", float(kept.abs().min()), step)


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    """The rows that a continued run keeps: it takes the steps after its checkpoint again, and a
    run that begins takes all of them.

    Raises:
        StateError: rows up to that step cannot be read.
    """
    if step == 0:
        path.unlink(missing_ok=True)
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode()
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole, newline=""), strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a line has another number of columns than the first one")
        return [row for row in rows if int(row["step"]) <= step]
    except (ValueError, KeyError, csv.Error) as error:
        raise StateError(
            f"{path} is damaged ({error!r}), and the run continues from step {step}: restore it, "
            "or delete the folder to begin the run anew"
        ) from None
