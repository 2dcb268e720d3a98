"""What a training run shows and writes down: progress, TensorBoard, one CSV row an evaluation."""

import csv
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from billhook.atomic import replacing
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
        self._loss = float("nan")
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
            self._drop_rows_after(steps[0])

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
            self._loss = float(loss)
            if self._board is not None:
                self._board.add_scalar("train/loss", self._loss, step)
                self._board.add_scalar("train/learning_rate", rate, step)
        if pruner is not None and (step in pruner.schedule.updates or not self.sparsity):
            self.sparsity = pruner.sparsity
            if self._board is not None and step in pruner.schedule.updates:
                self._masks(step, pruner)
        if self._progress.disable:
            return
        self._progress.update(
            self._bar,
            completed=step,
            description=f"loss {self._loss:.3f} {self._metric} sparsity {self.sparsity:.3f} "
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
            "train_loss": self._loss,
            **metrics,
        }
        numbers = {key: value for key, value in metrics.items() if not isinstance(value, str)}
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(f"valid/{key}", value, step)
        self._metric = " ".join(f"{key} {value:.2f}" for key, value in numbers.items())
        self.console.print(
            f"step {step}: {self._metric} (loss {self._loss:.3f}, sparsity {self.sparsity:.3f}, "
            f"lr {rate:.4g}, {self.seconds:.0f} s)"
        )
        path = self.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _drop_rows_after(self, step: int) -> None:
        """A continued run takes the steps after its checkpoint again, a new one all of them."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return
        heading, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if int(line.partition(",")[0]) <= step]
        with replacing(path) as file:
            file.write("".join([heading, *kept]).encode())

    def _masks(self, step: int, pruner: Pruner) -> None:
        """Sparsity and threshold, the smallest kept magnitude, of every pruned tensor."""
        for tensor in pruner.report().tensors:
            self._board.add_scalar(f"sparsity/{tensor.name}", tensor.sparsity, step)
        parameters = {weight.name: weight.parameter for weight, _ in pruner.selection.pruned}
        for name, mask in pruner.masks.items():
            kept = parameters[name].detach()[mask]
            if kept.numel():
                self._board.add_scalar(f"threshold/{name}", float(kept.abs().min()), step)
