"""What a running study looks like in a terminal."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from billhook.study.grid import Trial
from billhook.study.store import Store
from billhook.study.trial import Progress
from billhook.tasks.task import Metric

__all__ = ["Display"]

_RECOUNT = 0.5  # seconds


class Display:
    """Trials done, the time left, and where each trial in progress stands.

    Trials that other processes finish count too: what is done is what the store says.
    """

    def __init__(
        self, console: Console, store: Store, trials: tuple[Trial, ...], metric: Metric
    ) -> None:
        self._store = store
        self._pending = [trial for trial in trials if not store.finished(trial)]
        self._total = len(trials)
        self._metric = metric
        self._running: dict[str, Progress] = {}
        self._counted = time.monotonic()
        self._bars = Bars(
            "training", BarColumn(), MofNCompleteColumn(), "runs, left", TimeRemainingColumn()
        )
        self._task = self._bars.add_task("", total=self._total, completed=self.done)
        self._live = Live(self._lines(), console=console, refresh_per_second=4)

    @property
    def done(self) -> int:
        """How many trials are finished."""
        return self._total - len(self._pending)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.clear()
        self._count()
        self._live.update(self._lines())
        self._live.stop()

    def __call__(self, progress: Progress | None) -> None:
        """Take a worker's news; None only says that time has passed."""
        if progress is not None:
            self._running[progress.identity] = progress
            if progress.step == progress.steps:
                del self._running[progress.identity]
        if time.monotonic() - self._counted > _RECOUNT:
            self._count()
        self._live.update(self._lines())

    def _count(self) -> None:
        self._counted = time.monotonic()
        self._pending = [trial for trial in self._pending if not self._store.finished(trial)]
        self._bars.update(self._task, completed=self.done)

    def _lines(self) -> Group:
        lines = [Text(self._line(running), style="dim") for running in self._running.values()]
        return Group(self._bars, *lines)

    def _line(self, running: Progress) -> str:
        metric = self._metric
        score = f"{metric.scale * running.metric:.{max(0, metric.digits - 1)}f}"
        name = running.identity.rpartition("-")[0]
        return (
            f"  {name:<38} step {running.step:>5}/{running.steps}  sparsity "
            f"{running.sparsity:6.1%}  validation {metric.label} {score}"
        )
