"""A step of every network of a plan before anything is trained: what fails, fails here; and hours.

Each width is built as its runs will build it, takes two optimizer steps on real batches, pruned
where its arm is, and is forgotten.
"""

import time

import torch

from billhook.errors import BillhookError, ConfigurationError
from billhook.study.grid import Plan, Trial
from billhook.study.subject import Place, Subject
from billhook.training.loop import SCHEMES, Run, Sparsity
from billhook.training.precision import accelerator_for

__all__ = ["estimated_hours", "rehearse"]

Seconds = dict[tuple[str, str, float], float]
"""Of a step, by arm, scheme and width."""


def rehearse(plan: Plan, place: Place) -> Seconds:
    """Seconds of an optimizer step of every arm, scheme and width of ``plan``.

    Raises:
        ConfigurationError: a network, its data or its pruning fail; the arm and width are named.
    """
    seconds: Seconds = {}
    for trial in plan.trials:
        key = _key(trial)
        if key not in seconds:
            try:
                seconds[key] = _step(trial, place)
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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trial.seed)
            task = Subject(trial.family, trial.kind, place).task(trial.recipe, trial.width)
            sparse = None
            if trial.scheme:
                sparse = Sparsity(trial.sparsity, 0, 1, SCHEMES[trial.scheme])
            recipe = trial.recipe.changed(training={"epochs": None, "steps": 2})
            run = Run(task, recipe, sparse, accelerator_for(recipe))
            batches = task.batches(0, 0, run.accelerator.device)
            run.train_step(next(batches))
            batch = next(batches, None)  # the first step also sets up
            start = time.perf_counter()
            if batch is not None:
                run.train_step(batch)
            return time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
