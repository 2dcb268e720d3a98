"""One trial: train a network by its configuration, write its file, look at validation data.

It is :func:`billhook.training.loop.train` that trains: a trial that was killed continues from
its last checkpoint, and ends as if it had never stopped. Its folder gets
``model.billhook.safetensors`` and ``metrics.csv``, one line per evaluation.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import billhook
from billhook.errors import ConfigurationError, StateError
from billhook.study.grid import Trial
from billhook.study.operations import operations, uses
from billhook.study.records.outcome import Outcome, Progress
from billhook.study.sizes import EXACT, encoding_of
from billhook.study.subject import Place, Subject
from billhook.tasks.task import Task
from billhook.training.loop import MODEL_FILE, Sparsity, test_metrics, train
from billhook.training.parts import SCHEMES
from billhook.training.precision import accelerator_for

__all__ = ["evaluated_as", "evaluated_on_test", "load_task", "measure_test", "run_trial"]

_SLACK = 0.005  # by which a file may exceed the bytes expected of random masks


def run_trial(
    trial: Trial, folder: Path, report: Callable[[Progress], None], place: Place = Place()
) -> Outcome:
    """Train ``trial`` in ``folder``, from its checkpoint where there is one.

    The configuration determines the result: initial weights, the order of the examples and dropout
    come from the seed alone. The test examples are not touched.

    Raises:
        StateError: the loss is no longer finite, or the file does not have the planned bytes.
        ConfigurationError: the data differ from those of the plan.
    """

    def watch(step: int, sparsity: float, metrics: dict[str, float | str]) -> None:
        first = next(iter(_numbers(metrics).values()))
        report(Progress(trial.identity, step, trial.steps, sparsity, first))

    sparse = Sparsity(trial.sparsity, allocation=SCHEMES[trial.scheme]) if trial.scheme else None
    with torch.random.fork_rng(devices=[]):
        task = _task(trial, place)
        torch.manual_seed(trial.seed + 1)  # of dropout
        result = train(
            task,
            trial.recipe,
            folder,
            sparsity=sparse,
            accelerator=accelerator_for(trial.recipe, place.device),
            console=Console(quiet=True),
            tensorboard=False,
            encoding=encoding_of(trial.codings),
            watch=watch,
        )
    assert result is not None  # it was not told to stop
    file = folder / MODEL_FILE
    _check_size(trial, file, int(result["file_bytes"]), int(result["nonzero"]))
    return _measure(trial, task, file, result)


def _check_size(trial: Trial, file: Path, size: int, nonzero: int) -> None:
    """What was planned is what was written. Where a scheme shares one budget among the layers, a
    layer's count is not planned; of codings whose bytes depend on which weights stay, they may be
    fewer.

    Raises:
        StateError: they differ.
    """
    if trial.scheme not in ("", "standard", "layerwise"):
        return
    if set(trial.codings) <= EXACT:
        right, planned = size == trial.expected_bytes, f"{trial.expected_bytes:,}"
    else:
        most = round(trial.expected_bytes * (1 + _SLACK))
        right, planned = size <= most, f"at most {most:,}"
    if not right or nonzero > trial.expected_nonzero:
        raise StateError(
            f"{file} has {size:,} bytes, {planned} were planned, and {nonzero:,} nonzeros, of "
            f"{trial.expected_nonzero:,} planned: the network has other tensors at the end "
            "than at the start, or weights that were kept are zero"
        )


def measure_test(trial: Trial, folder: Path, place: Place) -> dict[str, float]:
    """The test metrics of a finished trial's network, read back from its file.

    Raises:
        StateError: a metric of the study is missing.
    """
    with torch.random.fork_rng(devices=[]):
        return evaluated_on_test(trial, folder, place)


def evaluated_on_test(trial: Trial, folder: Path, place: Place) -> dict[str, float]:
    """The test metrics of a network in a folder that is of a trial's shape."""
    return _numbers(test_metrics(_task(trial, place), folder, torch.device("cpu")))


def load_task(trial: Trial, folder: Path, place: Place) -> Task:
    """The task of a finished trial, its network as read back from the file, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        task = _task(trial, place)
    task.model.load_state_dict(billhook.load(folder / MODEL_FILE))
    task.model.eval()
    return task


def evaluated_as(task: Task, program: nn.Module) -> dict[str, float]:
    """The test metrics of a program that stands in for the task's network."""
    with torch.no_grad():
        return _numbers(task.evaluate(program, "test"))


def _task(trial: Trial, place: Place) -> Task:
    torch.manual_seed(trial.seed)
    task = Subject(trial.family, trial.kind, place).task(trial.recipe, trial.width)
    if task.data_description != trial.data_description:
        raise ConfigurationError(
            f"the study was planned on {trial.data_description!r}, here is "
            f"{task.data_description!r}: give the same data"
        )
    return task


def _measure(trial: Trial, task: Task, file: Path, result: dict[str, float]) -> Outcome:
    state = billhook.load(file)
    sizes = billhook.footprint(state)
    model = task.model.cpu()
    model.load_state_dict(state)  # the moving average, where it is what counts
    left = {name: int(each.count_nonzero()) for name, each in model.named_parameters()}
    return Outcome(
        parameters=int(result["parameters"]),
        nonzero=sum(left.values()),
        bytes=file.stat().st_size,
        bytes_dense=sizes.file_bytes("dense"),
        bytes_bitmask=sizes.file_bytes(("dense", "bitmask")),
        bytes_relative_index=sizes.file_bytes(("dense", "relative_index")),
        bytes_entropy=sizes.file_bytes(("dense", "entropy")),
        training_operations=trial.training_operations,
        inference_operations=operations(uses(task, model, training=False), left),
        seconds=result["minutes_this_session"] * 60,
        validation=_numbers(result["valid"]),  # type: ignore[arg-type]
    )


def _numbers(metrics: dict[str, float | str]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not isinstance(value, str)}
