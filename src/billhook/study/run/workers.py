"""The queue of a study's trials, and the local processes that work it off."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import torch

from billhook.errors import StateError
from billhook.study.grid import Plan, Trial
from billhook.study.records.store import Store
from billhook.study.run.attempt import attempt
from billhook.study.run.choice import Group, groups
from billhook.study.subject import Place

__all__ = ["LocalPool", "Pool", "run_trials", "settle_in"]

ATTEMPTS = 3  # a trial that killed as many workers is not given another
_POLL = 0.5  # seconds between looks at the store when no worker has news


class Pool(Protocol):
    """Processes that make attempts at trials.

    Attributes:
        slots: how many trials it takes at a time.
        deaths: what the future of an attempt raises whose process died.
    """

    slots: int
    deaths: tuple[type[BaseException], ...]

    def submit(self, group: Group, trial: Trial) -> Future[None]:
        """Begin an attempt at a trial of a group."""
        ...

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        ...


def run_trials(store: Store, plan: Plan, pool: Pool, tick: Callable[[], None]) -> None:
    """Settle every trial of ``plan``, finished or failed, and record each group as it is complete.

    A trial whose worker dies goes to another, which continues from the last checkpoint; one that
    other processes have is waited for, and taken over should they die.

    Args:
        pool: the caller closes it.
        tick: called at least every half second.

    Raises:
        ConfigurationError: the folder's rows are of other trials.
        StateError: the results folder cannot be written; what is finished is kept.
    """
    order = [trial.identity for trial in plan.trials]
    store.check_runs(order)
    running: dict[Future[None], tuple[Group, Trial]] = {}
    died: Counter[Trial] = Counter()
    try:
        while pending := _record(store, plan, order):
            free = _free(store, pending, {trial for _, trial in running.values()})
            for group, trial in itertools.islice(free, pool.slots - len(running)):
                running[pool.submit(group, trial)] = group, trial
            if not running:
                time.sleep(_POLL)  # others have all that is left
            done, _ = concurrent.futures.wait(
                running, timeout=_POLL, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                group, trial = running.pop(future)
                try:
                    future.result()
                except pool.deaths as death:
                    died[trial] += 1
                    if died[trial] >= ATTEMPTS:
                        _give_up(store, group, trial, death)
            tick()
    except OSError as error:
        raise StateError(
            f"{store.folder} cannot be written ({error}): make room or give access; finished runs "
            "are kept, the same command continues"
        ) from error


def _record(store: Store, plan: Plan, order: list[str]) -> list[Group]:
    """Record the groups that miss nothing; those that are left."""
    complete = [g for g in groups(plan, store) if not g.recorded(store) and not g.missing(store)]
    if complete:
        store.records.add((row for group in complete for row in group.rows(store)), order)
    return [group for group in groups(plan, store) if not group.recorded(store)]


def _free(store: Store, pending: list[Group], running: set[Trial]) -> Iterator[tuple[Group, Trial]]:
    """The next trials to attempt, those that no process has."""
    for group in pending:
        for trial in group.missing(store):
            if trial not in running and not store.running(trial):
                yield group, trial


def _give_up(store: Store, group: Group, trial: Trial, death: BaseException) -> None:
    with store.take(trial) as mine:
        if mine and trial in group.missing(store):
            reason = f"{ATTEMPTS} workers died at it, often for lack of memory: {death}"
            store.fail(trial, reason, "")


class LocalPool:
    """Processes on this machine, a core each; one that died is replaced.

    Args:
        store: takes what becomes of the trials.
        workers: how many.
        place: where the data and the user's own module are.

    Raises:
        StateError: processes die before they are given anything to do.
    """

    deaths: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, store: Store, workers: int, place: Place) -> None:
        self.slots = workers
        self._store, self._place = store, place
        starting = [_Worker.start() for _ in range(workers)]
        self._workers = [_ready(worker) for worker in starting]  # side by side

    def submit(self, group: Group, trial: Trial) -> Future[None]:
        """Give ``trial`` to an idle process."""
        for place, worker in enumerate(self._workers):
            if worker.job is None or worker.job.done():
                if worker.job is not None and worker.job.exception() is not None:
                    worker.executor.shutdown()
                    worker = self._workers[place] = _ready(_Worker.start())  # noqa: PLW2901
                worker.job = worker.executor.submit(attempt, self._store, group, trial, self._place)
                return worker.job
        raise AssertionError("run_trials submits no more than slots")

    def close(self) -> None:
        """End all processes at once: the store is safe from that."""
        for worker in self._workers:
            if worker.job is not None and not worker.job.done():
                os.kill(worker.pid, signal.SIGKILL)
            worker.executor.shutdown()


@dataclasses.dataclass
class _Worker:
    """One process; an executor of its own, as the death of a process breaks its whole executor."""

    executor: ProcessPoolExecutor
    started: Future[int]
    pid: int = 0
    job: Future[None] | None = None

    @classmethod
    def start(cls) -> "_Worker":
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
        with _without_interrupts():
            return cls(executor, executor.submit(os.getpid))


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that starts in this block never hears of Ctrl-C, which is the parent's to handle.

    It inherits that: its imports take seconds, in which it could not set this for itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ready(worker: _Worker) -> _Worker:
    """The worker once its process runs; one that dies as it starts, which is no trial's fault, is
    replaced some times."""
    for _ in range(ATTEMPTS):
        try:
            worker.pid = worker.started.result()
        except BrokenProcessPool:
            worker.executor.shutdown()
            worker = _Worker.start()
        else:
            return worker
    worker.executor.shutdown()
    raise StateError(
        f"{ATTEMPTS} worker processes died as they started: see what they printed above; in a "
        "script, billhook's studies need the `if __name__ == '__main__'` guard of multiprocessing"
    )


def _begin() -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    settle_in()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def settle_in() -> None:
    """Make this process a worker: one thread, and no log of each of hundreds of selections."""
    torch.set_num_threads(1)
    logging.getLogger("billhook").setLevel(logging.WARNING)
