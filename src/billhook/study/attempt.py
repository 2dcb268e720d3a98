"""One attempt at a trial, in whatever process: take it, train, record how it ended."""

import os
import time
import traceback

from billhook.study.family import Place
from billhook.study.grid import Trial
from billhook.study.store import Sighting, Store
from billhook.study.trial import Progress, run_trial

__all__ = ["attempt"]

_NOTE_EVERY = 1.0  # seconds


def attempt(store: Store, trial: Trial, place: Place) -> None:
    """Train ``trial``, from its checkpoint where there is one, unless another process has it.

    Whatever goes wrong in training is the trial's failure, recorded with its reason.

    Raises:
        OSError: not even that can be written.
    """
    with store.take(trial) as mine:
        if not mine:
            return
        try:
            notes = _Notes(store, trial)
            outcome = run_trial(trial, store.run_folder(trial), notes, place)
        except Exception as error:  # also what a user's own model raises
            store.fail(trial, f"{type(error).__name__}: {error}", traceback.format_exc())
        else:
            store.finish(trial, outcome)


class _Notes:
    """Leaves word of the trial's progress in its folder, at most once a second."""

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
        self._store.note(self._trial, Sighting(progress, os.getpid(), left))
