"""How a study stands, and what a running one looks like in a terminal or a log."""

import datetime
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from billhook.study.grid import Plan, Trial
from billhook.study.records.outcome import Heartbeat
from billhook.study.records.reading import printable
from billhook.study.records.rows import runs_of
from billhook.study.records.store import Identified, Store
from billhook.tasks.task import Metric

__all__ = ["Display", "print_status", "retry_hint"]

_RECOUNT = 0.5  # seconds

R = TypeVar("R", bound=Identified)


class Display:
    """Trials settled, the time left, and where each trial in progress stands.

    All of it is read from the store, so trials of other processes and machines show too. Where the
    console is not a terminal, one line per settled trial.
    """

    def __init__(self, console: Console, store: Store, plan: Plan) -> None:
        self._console, self._store, self._metric = console, store, plan.study.watched
        self._total = plan.study.runs
        self._pending = [trial for trial in plan.trials if not store.settled(trial)]
        self.settled = len(plan.trials) - len(self._pending)  # finished or failed
        self._seen: dict[Trial, Heartbeat | None] = {}
        self._look()
        self._began, self._done_before = time.monotonic(), self._done
        self._looked = self._began
        self._bars = Bars(
            "training", BarColumn(), MofNCompleteColumn(), TextColumn("runs{task.fields[left]}")
        )
        self._task = self._bars.add_task("", total=self._total, completed=self.settled, left="")
        self._live = Live(self._lines(), console=console, refresh_per_second=4)

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
                self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
        self._looked = time.monotonic()

    def _look(self) -> list[Trial]:
        """Read the store; the trials settled since the last time."""
        settled = [trial for trial in self._pending if self._store.settled(trial)]
        self._pending = [trial for trial in self._pending if trial not in settled]
        self.settled += len(settled)
        self._seen = dict(_running(self._store, self._pending))
        return settled

    @property
    def _done(self) -> float:
        """Settled trials, and the done part of those in progress."""
        running = [seen.progress for seen in self._seen.values() if seen is not None]
        return self.settled + sum(seen.step / seen.steps for seen in running)

    def _left(self) -> str:
        done = self._done - self._done_before
        if self.settled == self._total or done <= 0:
            return ""
        seconds = (time.monotonic() - self._began) * (self._total - self._done) / done
        return f", about {_clock(seconds)} left"

    def _lines(self) -> Group:
        lines = [
            Text(f"  {_running_line(trial, seen, self._metric)}", style="dim")
            for trial, seen in self._seen.items()
        ]
        return Group(self._bars, *lines)

    def _settled_line(self, trial: Trial) -> str:
        outcome, metric = self._store.outcome(trial), self._metric
        if outcome is None:
            return f"{trial.identity} FAILED: {self._store.failure(trial)}"
        return f"{trial.identity}: validation {_score(metric, outcome.validation[metric.name])}"


def print_status(console: Console, store: Store) -> None:
    """How many runs are finished, which run now and how far they are, which failed and why."""
    study, recorded = store.study(), store.records.by_run()
    runs = store.runs()
    reasons = ((run.identity, store.failure(run)) for run in runs)
    failures = {run: reason for run, reason in reasons if reason is not None}
    finished = sum(map(store.finished, runs))
    running = dict(_running(store, [run for run in runs if not store.settled(run)]))
    total = runs_of(study, recorded.values())
    counts = [f"{finished} of {total} runs finished"]
    waiting = total - finished - len(failures) - len(running)
    counts += [
        f"{count} {word}"
        for count, word in ((len(failures), "failed"), (len(running), "running"))
        if count
    ]
    counts += [f"{waiting} waiting"] if waiting else []
    lines = [f"{study.name}: {', '.join(counts)}; {len(recorded)} in rows.csv"]
    metric = study.watched
    lines += [f"running  {_running_line(run, seen, metric)}" for run, seen in running.items()]
    lines += [f"failed   {run}: {reason}" for run, reason in failures.items()]
    if failures:
        lines.append(retry_hint(store))
    for line in map(printable, lines):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def retry_hint(store: Store) -> str:
    """What to do about failed runs."""
    return (
        f"to run the failed ones again: {store.provenance()['command']} --retry-failed "
        "(each run's failure.json has the traceback)"
    )


def _running(store: Store, runs: Iterable[R]) -> Iterable[tuple[R, Heartbeat | None]]:
    return [(run, store.heartbeat(run)) for run in runs if store.running(run)]


def _running_line(run: Identified, seen: Heartbeat | None, metric: Metric) -> str:
    name = run.identity.rpartition("-")[0]
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
