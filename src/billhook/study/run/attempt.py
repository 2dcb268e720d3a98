"""One attempt at a trial, in whatever process: take it, train, record how it ended."""

import os
import time
import traceback

from billhook.study.grid import Trial
from billhook.study.records.outcome import Heartbeat, Progress
from billhook.study.records.store import Store
from billhook.study.run.choice import Group
from billhook.study.run.trial import measure_test, run_trial
from billhook.study.subject import Place

__all__ = ["attempt"]

_NOTE_EVERY = 1.0  # seconds


def attempt(store: Store, group: Group, trial: Trial, place: Place) -> None:
    """Train ``trial`` of ``group``, from its checkpoint where there is one, unless it is settled.

    Once all of the group are, the chosen one is measured on test data, here and never again. What
    another process has taken is left to it. Whatever goes wrong is the trial's failure, recorded
    with its reason.

    Raises:
        OSError: not even that can be written.
    """
    with store.take(trial) as mine:
        if mine and not store.settled(trial):
            _train(store, trial, place)
    chosen = group.untested(store)
    if chosen is not None:
        with store.take(chosen) as mine:
            if mine and group.untested(store) == chosen:
                _measure(store, chosen, place)


def _train(store: Store, trial: Trial, place: Place) -> None:
    try:
        outcome = run_trial(trial, store.run_folder(trial), _Notes(store, trial), place)
    except Exception as error:  # also what a user's own model raises
        store.fail(trial, f"{type(error).__name__}: {error}", traceback.format_exc())
    else:
        store.finish(trial, outcome)


def _measure(store: Store, trial: Trial, place: Place) -> None:
    try:
        test = measure_test(trial, store.run_folder(trial), place)
    except Exception as error:
        reason = f"on test data: {type(error).__name__}: {error}"
        store.fail(trial, reason, traceback.format_exc())
    else:
        store.finish_test(trial, test)


class _Notes:
    """Records the trial's progress in its folder, at most once per second."""

    def __init__(self, store: Store, trial: Trial) -> None:
        self._store, self._trial = store, trial
        self._first: tuple[float, int] | None = None
        self._noted = float("-inf")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        self._first = self._first or (now, progress.step)
        if now - self._noted < _NOTE_EVERY:
            return
        self._noted = now
        since, step = self._first
        left = None
        if progress.step > step:
            left = (now - since) / (progress.step - step) * (progress.steps - progress.step)
        self._store.note(self._trial, Heartbeat(progress, os.getpid(), left))
