"""A step of every network of a plan before anything is trained: what fails, fails here; and hours.

Each width is built as its runs will build it, takes two optimizer steps on real batches, pruned
where its arm is, and is forgotten.
"""

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator

import torch

from billhook.errors import BillhookError, ConfigurationError
from billhook.study.grid import Plan, Trial
from billhook.study.run.workers import settle_in
from billhook.study.subject import Place, Subject
from billhook.training.loop import Run, Sparsity
from billhook.training.parts import SCHEMES
from billhook.training.precision import accelerator_for

__all__ = ["estimated_hours", "rehearse"]

Seconds = dict[tuple[str, str, float], float]
"""Of a step, by arm, scheme and width."""


def rehearse(plan: Plan, place: Place) -> Seconds:
    """Seconds of an optimizer step of every arm, scheme and width of ``plan``, on one thread.

    Raises:
        ConfigurationError: a network, its data or its pruning fail; the arm and width are named.
    """
    seconds: Seconds = {}
    with _as_a_worker():
        for trial in plan.trials:
            if _key(trial) not in seconds:
                try:
                    seconds[_key(trial)] = _step(trial, place)
                except BillhookError:
                    raise
                except Exception as error:  # whatever a user's own network raises
                    raise ConfigurationError(
                        f"one step of {trial.arm} at width {trial.width:g} fails: "
                        f"{type(error).__name__}: {error}"
                    ) from error
    return seconds


def estimated_hours(plan: Plan, seconds: Seconds) -> float:
    """Hours of one process for all steps of the runs; evaluations come on top."""
    return sum(trial.steps * seconds[_key(trial)] for trial in plan.runs) / 3600


def _key(trial: Trial) -> tuple[str, str, float]:
    return trial.arm, trial.scheme, trial.width


def _step(trial: Trial, place: Place) -> float:
    torch.manual_seed(trial.seed)
    task = Subject(trial.family, trial.kind, place).task(trial.recipe, trial.width)
    sparse = Sparsity(trial.sparsity, 0, 1, SCHEMES[trial.scheme]) if trial.scheme else None
    recipe = trial.recipe.changed(training={"epochs": None, "steps": 2})
    run = Run(task, recipe, sparse, accelerator_for(recipe, place.device))
    for batch in itertools.islice(task.batches(0, 0, run.accelerator.device), 2):
        start = time.perf_counter()
        run.train_step(batch)
    return time.perf_counter() - start  # of the second, as the first also sets up


@contextlib.contextmanager
def _as_a_worker() -> Iterator[None]:
    """One thread, no log of each selection, and random numbers of its own."""
    threads, log = torch.get_num_threads(), logging.getLogger("billhook")
    level = log.level
    try:
        with torch.random.fork_rng(devices=[]):
            settle_in()
            yield
    finally:
        torch.set_num_threads(threads)
        log.setLevel(level)
