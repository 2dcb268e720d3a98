"""How a study stands, and what a running one looks like in a terminal or a log."""

import datetime
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from billhook.study.grid import Trial
from billhook.study.store import Sighting, Store
from billhook.tasks.task import Metric

__all__ = ["Display", "print_status", "retry_hint"]

_RECOUNT = 0.5  # seconds


class Display:
    """Trials settled, the time left, and where each trial in progress stands.

    All of it is read from the store, so trials of other processes and machines show too. Where the
    console is no terminal, one line a settled trial.
    """

    def __init__(
        self, console: Console, store: Store, trials: tuple[Trial, ...], metric: Metric
    ) -> None:
        self._console, self._store, self._metric = console, store, metric
        self._total = len(trials)
        self._pending = [trial for trial in trials if not store.settled(trial)]
        self._seen: dict[Trial, Sighting | None] = {}
        self._look()
        self._began, self._done_before = time.monotonic(), self._done
        self._looked = self._began
        self._bars = Bars(
            "training", BarColumn(), MofNCompleteColumn(), TextColumn("runs{task.fields[left]}")
        )
        self._task = self._bars.add_task("", total=self._total, completed=self.settled, left="")
        self._live = Live(self._lines(), console=console, refresh_per_second=4)

    @property
    def settled(self) -> int:
        """How many trials are finished or failed."""
        return self._total - len(self._pending)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show()
        if self._console.is_terminal:
            self._live.update(Group(self._bars))
            self._live.stop()

    def __call__(self) -> None:
        """Look again, if it is time to."""
        if time.monotonic() - self._looked > _RECOUNT:
            self._show()

    def _show(self) -> None:
        settled = self._look()
        self._bars.update(self._task, completed=self.settled, left=self._left())
        if self._console.is_terminal:
            self._live.update(self._lines())
        else:
            for place, trial in enumerate(settled, start=self.settled - len(settled) + 1):
                line = f"{place}/{self._total} runs{self._left()}: {self._settled_line(trial)}"
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._looked = time.monotonic()

    def _look(self) -> list[Trial]:
        """Read the store; the trials settled since the last time."""
        settled = [trial for trial in self._pending if self._store.settled(trial)]
        self._pending = [trial for trial in self._pending if trial not in settled]
        self._seen = dict(_running(self._store, self._pending))
        return settled

    @property
    def _done(self) -> float:
        """Settled trials, and the done part of those in progress."""
        sightings = [seen.progress for seen in self._seen.values() if seen is not None]
        return self.settled + sum(seen.step / seen.steps for seen in sightings)

    def _left(self) -> str:
        done = self._done - self._done_before
        if not self._pending or done <= 0:
            return ""
        seconds = (time.monotonic() - self._began) * (self._total - self._done) / done
        return f", about {_clock(seconds)} left"

    def _lines(self) -> Group:
        lines = [
            Text(f"  {_sighting_line(trial, seen, self._metric)}", style="dim")
            for trial, seen in self._seen.items()
        ]
        return Group(self._bars, *lines)

    def _settled_line(self, trial: Trial) -> str:
        failure = self._store.failure(trial)
        if failure is not None:
            return f"{trial.identity} FAILED: {failure}"
        metric = self._metric
        validation = self._store.outcome(trial).validation
        return f"{trial.identity}: validation {_score(metric, validation[metric.name])}"


def print_status(console: Console, store: Store, trials: tuple[Trial, ...], metric: Metric) -> None:
    """How many trials are finished, which run now and how far they are, which failed and why."""
    rows = store.rows()
    if rows is not None:  # finished; its runs may be gone
        failures = {row.run: row.failure for row in rows if row.failure}
        finished, running = len(rows) - len(failures), {}
    else:
        reasons = ((trial, store.failure(trial)) for trial in trials)
        failures = {trial.identity: reason for trial, reason in reasons if reason is not None}
        finished = sum(map(store.finished, trials))
        pending = [trial for trial in trials if not store.settled(trial)]
        running = dict(_running(store, pending))
    waiting = len(trials) - finished - len(failures) - len(running)
    counts = [f"{finished} of {len(trials)} runs finished"]
    counts += [
        f"{count} {word}"
        for count, word in ((len(failures), "failed"), (len(running), "running"))
        if count
    ]
    counts += [f"{waiting} waiting"] if waiting else []
    lines = [f"{store.study().name}: {', '.join(counts)}"]
    lines += [f"running  {_sighting_line(trial, seen, metric)}" for trial, seen in running.items()]
    lines += [f"failed   {run}: {reason}" for run, reason in failures.items()]
    if failures:
        lines.append(retry_hint(store))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def retry_hint(store: Store) -> str:
    """What to do about failed runs."""
    return (
        f"to run the failed ones again: {store.provenance()['command']} --retry-failed "
        "(each run's failure.json has the traceback)"
    )


def _running(store: Store, trials: Iterable[Trial]) -> Iterable[tuple[Trial, Sighting | None]]:
    return [(trial, store.sighting(trial)) for trial in trials if store.running(trial)]


def _sighting_line(trial: Trial, seen: Sighting | None, metric: Metric) -> str:
    name = trial.identity.rpartition("-")[0]
    if seen is None:
        return f"{name:<38} starting"
    at = seen.progress
    left = "" if seen.seconds_left is None else f"  {_clock(seen.seconds_left)} left"
    return (
        f"{name:<38} step {at.step:>5}/{at.steps}{left}  sparsity {at.sparsity:6.1%}  "
        f"validation {_score(metric, at.metric)}"
    )


def _score(metric: Metric, value: float) -> str:
    return f"{metric.label} {metric.scale * value:.{max(0, metric.digits - 1)}f}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
