"""What a training run shows and writes down: progress, TensorBoard, one CSV row an evaluation."""

import csv
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from billhook.pruner import Pruner

__all__ = ["TrainingLog"]

STEPS_BETWEEN = 50  # TensorBoard points of loss and learning rate


class TrainingLog:
    """A context manager around the loop; silent on every process but the main one."""

    def __init__(self, folder: Path, console: Console, total_steps: int, *, main: bool) -> None:
        self.folder, self.console, self.main = folder, console, main
        self.started = time.monotonic()
        self._loss = float("nan")
        self._metric = ""
        self._sparsity: float | None = None
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not main or not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=total_steps)
        self._board: Any = None

    def __enter__(self) -> "TrainingLog":
        if self.main:
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
        updated = pruner is not None and step in pruner.schedule.updates
        if step % STEPS_BETWEEN == 0 or step == 1:
            self._loss = float(loss)
            self._board.add_scalar("train/loss", self._loss, step)
            self._board.add_scalar("train/learning_rate", rate, step)
        if pruner is not None and updated:
            self._masks(step, pruner)
        sparsity = self._counted(pruner)
        self._progress.update(
            self._bar,
            completed=step,
            description=f"loss {self._loss:.3f} {self._metric} sparsity {sparsity:.3f} "
            f"lr {rate:.4g}",
        )

    def evaluation(
        self, step: int, metrics: dict[str, float | str], rate: float, pruner: Pruner | None
    ) -> None:
        """After an evaluation: a line, a CSV row, TensorBoard points."""
        if not self.main:
            return
        sparsity = self._counted(pruner)
        row: dict[str, float | str | int] = {
            "step": step,
            "seconds": round(self.seconds, 1),
            "lr": rate,
            "sparsity": sparsity,
            "train_loss": self._loss,
            **metrics,
        }
        numbers = {key: value for key, value in metrics.items() if not isinstance(value, str)}
        for key, value in numbers.items():
            self._board.add_scalar(f"valid/{key}", value, step)
        self._metric = " ".join(f"{key} {value:.2f}" for key, value in numbers.items())
        self.console.print(
            f"step {step}: {self._metric} (loss {self._loss:.3f}, sparsity {sparsity:.3f}, "
            f"lr {rate:.4g}, {self.seconds:.0f} s)"
        )
        path = self.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _counted(self, pruner: Pruner | None) -> float:
        """The share of masked weights as of the last update."""
        if self._sparsity is None:
            self._sparsity = 0.0 if pruner is None else pruner.report().sparsity
        return self._sparsity

    def _masks(self, step: int, pruner: Pruner) -> None:
        """Sparsity and threshold, the smallest kept magnitude, of every pruned tensor."""
        report = pruner.report()
        self._sparsity = report.sparsity
        for tensor in report.tensors:
            self._board.add_scalar(f"sparsity/{tensor.name}", tensor.sparsity, step)
        parameters = {weight.name: weight.parameter for weight, _ in pruner.selection.pruned}
        for name, mask in pruner.masks.items():
            kept = parameters[name].detach()[mask]
            if kept.numel():
                self._board.add_scalar(f"threshold/{name}", float(kept.abs().min()), step)
