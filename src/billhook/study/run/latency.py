"""How fast the chosen networks are: ``billhook.compile`` beside eager torch, in ``latency.csv``.

A line a network, of the first seed whose file is there: run, input, eager_ms, compiled_ms (medians
of one thread), failure, machine. It is measured once a study is complete, when nothing of it runs
any more, and is kept, so that reports can be made without the models.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import billhook
from billhook.atomic import write_text
from billhook.errors import BillhookError
from billhook.native import library
from billhook.study.family import Place
from billhook.study.grid import Plan, Trial
from billhook.study.records.details import Line, as_csv
from billhook.study.records.provenance import provenance
from billhook.study.records.store import Store
from billhook.study.run.trial import MODEL_FILE, load_network

__all__ = ["FILE", "measure_latency"]

FILE = "latency.csv"
ROUNDS = 15
_SHORTEST = 2e-3  # seconds of eager torch that a round lasts at least

# glibc else returns the memory of large tensors in every call: whoever needs less looks faster.
_STEADY_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def measure_latency(store: Store, plan: Plan, place: Place) -> str:
    """Write ``latency.csv`` unless it is there; what kept it from that, or "".

    The networks are loaded and timed in a fresh process.
    """
    if (store.folder / FILE).exists():
        return ""
    if library() is None:
        return "this billhook was built without its kernels"
    trials = _networks(store, plan)
    if not trials:
        return f"the networks' files are not in {store.folder / 'runs'} any more"
    context = multiprocessing.get_context("spawn")
    with (
        _environment(_STEADY_MEMORY),
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process,
    ):
        lines = list(
            process.map(_line, trials, map(store.run_folder, trials), [place] * len(trials))
        )
    write_text(store.folder / FILE, as_csv(lines))
    return ""


def _networks(store: Store, plan: Plan) -> list[Trial]:
    """A chosen trial an arm, scheme and point: the first seed's whose file is there."""
    rows = store.records.by_run()
    found: dict[tuple[str, str, str, int], Trial] = {}
    for trial in plan.trials:
        row = rows.get(trial.identity)
        there = (store.run_folder(trial) / MODEL_FILE).exists()
        if row is not None and row.chosen and not trial.variant and there:
            found.setdefault(trial.group[:-1], trial)
    return list(found.values())


def _line(trial: Trial, folder: Path, place: Place) -> Line:
    model, inputs = load_network(trial, folder, place)
    shapes = "" if inputs is None else " ".join("x".join(map(str, each.shape)) for each in inputs)
    eager = compiled = failure = ""
    if inputs is None:
        failure = "the task has no example_inputs"
    else:
        torch.set_num_threads(1)
        try:
            program = billhook.compile(model, inputs)
        except BillhookError as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            medians = _medians(lambda: model(*inputs), lambda: program(*inputs))
            eager, compiled = (f"{1e3 * median:.4g}" for median in medians)
    return {
        "run": trial.identity,
        "input": shapes,
        "eager_ms": eager,
        "compiled_ms": compiled,
        "failure": failure,
        "machine": provenance()["machine"],
    }


@torch.no_grad()
def _medians(*calls: Callable[[], object]) -> list[float]:
    """Seconds of one call, the median over rounds in which all take turns, first untimed."""
    repeats = 1 + int(_SHORTEST / max(_seconds(calls[0], 3), 1e-7))
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for call in calls:
            _seconds(call, repeats)
            times.append(_seconds(call, repeats))
        rounds.append(times)
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


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
