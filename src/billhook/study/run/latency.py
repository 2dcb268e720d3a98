"""How fast the chosen networks are, each by several forms, into ``latency.csv``.

``billhook study run`` times eager torch and the program in fp32 of the first seed's networks when
nothing of the study runs any more; ``billhook study latency`` every form of every seed's. The forms
of all networks of a seed take turns in one fresh process, so that what else the machine does hits
all of them alike; a seed is written when it is measured, and is not measured again.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import billhook
from billhook.atomic import write_text
from billhook.bench.measure import instruction_set, processor_times
from billhook.bench.memory import STEADY_MALLOC
from billhook.bench.peers import peer, reason
from billhook.errors import ConfigurationError
from billhook.native import library
from billhook.study.grid import SPARSE, Plan, Trial
from billhook.study.records.latency import (
    EAGER,
    FP32,
    INT8,
    Timing,
    latency_csv,
    read_latency,
)
from billhook.study.records.provenance import provenance
from billhook.study.records.reading import LATENCY
from billhook.study.records.store import Store
from billhook.study.run.trial import evaluated_as, load_task
from billhook.study.subject import Place
from billhook.tasks.task import Task
from billhook.training.loop import MODEL_FILE

__all__ = ["ALL_FORMS", "measure_latency"]

_BASIC = (EAGER, FP32)
#: Of networks without zeros, which are what others run.
_PEERS = (
    *("onnxruntime", "onnxruntime int8", "onnxruntime int8 dynamic"),
    *("openvino", "openvino int8"),
)
ALL_FORMS = (EAGER, FP32, INT8, *_PEERS)


def measure_latency(
    store: Store,
    plan: Plan,
    place: Place,
    *,
    every: bool = False,
    watch: Callable[[int, int], None] = lambda _, __: None,
) -> str:
    """Bring ``latency.csv`` up to date; what kept it from that, or "".

    Args:
        store: of the study, whose rows say which networks were chosen.
        plan: its trials.
        place: where the data are, on which programs in 8 bits are calibrated and tested.
        every: all forms of all seeds; else, unless the file is there, the first seed's basic ones.
        watch: is told the seed and how many networks of it will be measured.
    """
    if not every and (store.folder / LATENCY).exists():
        return ""
    if library() is None:
        return "this billhook was built without its kernels"
    trials = _networks(store, plan)
    if not trials:
        return f"the networks' files are not in {store.folder / 'runs'} any more"
    known = read_latency(store.folder)
    forms = ALL_FORMS if every else _BASIC
    for seed, group in itertools.groupby(trials, key=lambda trial: trial.seed):
        own = list(group)
        wanted = {(trial.identity, form) for trial in own for form in _forms(trial, forms)}
        if wanted <= {(each.run, each.form) for each in known}:
            continue
        watch(seed, len(own))
        folders = [store.run_folder(trial) for trial in own]
        new = _in_fresh_process(_timings, own, folders, place, forms)
        measured = {each.run for each in new}
        known = [*(each for each in known if each.run not in measured), *new]
        metrics = [metric.name for metric in plan.study.metrics]
        write_text(store.folder / LATENCY, latency_csv(known, metrics))
        if not every:
            break
    return ""


def _networks(store: Store, plan: Plan) -> list[Trial]:
    """The chosen trials whose files are there, seed by seed; of variants too."""
    rows = store.records.by_run()
    found = [
        trial
        for trial in plan.trials
        if trial.identity in rows and rows[trial.identity].chosen
        if (store.run_folder(trial) / MODEL_FILE).exists()
    ]
    return sorted(found, key=lambda trial: plan.study.seeds.index(trial.seed))


def _forms(trial: Trial, forms: Sequence[str]) -> list[str]:
    return [form for form in forms if trial.arm != SPARSE or form not in _PEERS]


def _timings(
    trials: Sequence[Trial], folders: Sequence[Path], place: Place, forms: Sequence[str]
) -> list[Timing]:
    """Every form of the networks of one seed, timed in turn."""
    torch.set_num_threads(1)
    logging.getLogger("billhook").setLevel(logging.WARNING)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    made: list[tuple[Trial, str, str, str, dict[str, float]]] = []
    with torch.no_grad():
        for trial, folder in zip(trials, folders, strict=True):
            task = load_task(trial, folder, place)
            shapes = " ".join("x".join(map(str, x.shape)) for x in task.example_inputs() or ())
            for form in _forms(trial, forms):
                test: dict[str, float] = {}
                failure = ""
                try:
                    call, test = _made(form, task)
                    call()
                    calls[trial.identity, form] = call
                except Exception as error:  # of whatever library
                    failure = reason(error)
                made.append((trial, form, shapes, failure, test))
        medians = processor_times(calls)
    machine = provenance()["machine"]
    return [
        Timing(
            run=trial.identity,
            form=form,
            input=shapes,
            milliseconds=_digits(medians.get((trial.identity, form))),
            clock="cpu",
            machine=machine,
            isa=instruction_set(),
            threads=1,
            failure=failure,
            test=test,
        )
        for trial, form, shapes, failure, test in made
    ]


def _made(form: str, task: Task) -> tuple[Callable[[], object], dict[str, float]]:
    """A call of the task's network by a form, and its test metrics where they are its own."""
    model, inputs = task.model, task.example_inputs()
    if inputs is None:
        raise ConfigurationError("the task has no example_inputs")
    if form == FP32:
        program = billhook.compile(model, inputs)
        return lambda: program(*inputs), {}
    if form == INT8:
        batches = [each if len(each) > 1 else each[0] for each in task.calibration()]
        program = billhook.compile(model, inputs, precision="int8", calibration=batches)
        return lambda: program(*inputs), evaluated_as(task, _Stand(program))
    return peer(form, model, inputs, 1, task.calibration()), {}


class _Stand(nn.Module):
    """A program in a network's place, with a parameter by which tasks see where it is."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program, self.place = program, nn.Parameter(torch.empty(0))

    def forward(self, *args: Any) -> Any:
        return self.program(*args)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["program"], name)


def _digits(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else float(f"{milliseconds:.4g}")


def _in_fresh_process(function: Callable[..., list[Timing]], *arguments: object) -> list[Timing]:
    """Its result, in a process whose allocator keeps its memory."""
    context = multiprocessing.get_context("spawn")
    with (
        _environment(STEADY_MALLOC),
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process,
    ):
        return process.submit(function, *arguments).result()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that processes started meanwhile have."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
