"""How fast the chosen networks are: ``billhook.compile`` beside eager torch, in ``latency.csv``.

One line per network, of the first seed whose file is there: run, input, eager_ms, compiled_ms
(medians of one thread), failure, machine. It is measured once a study is complete, when nothing of
it runs any more, and is kept, so that reports can be made without the models.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from billhook.atomic import write_text
from billhook.bench.measure import bench
from billhook.bench.memory import STEADY_MALLOC
from billhook.errors import BillhookError
from billhook.native import library
from billhook.study.grid import Plan, Trial
from billhook.study.records.details import Line, as_csv
from billhook.study.records.provenance import provenance
from billhook.study.records.reading import LATENCY
from billhook.study.records.store import Store
from billhook.study.run.trial import load_network
from billhook.study.subject import Place
from billhook.training.loop import MODEL_FILE

__all__ = ["measure_latency"]

_SHORTEST = 2e-3  # seconds of eager torch that a round lasts at least


def measure_latency(store: Store, plan: Plan, place: Place) -> str:
    """Write ``latency.csv`` unless it is there; what kept it from that, or "".

    The networks are loaded and timed in a fresh process.
    """
    if (store.folder / LATENCY).exists():
        return ""
    if library() is None:
        return "this billhook was built without its kernels"
    trials = _networks(store, plan)
    if not trials:
        return f"the networks' files are not in {store.folder / 'runs'} any more"
    context = multiprocessing.get_context("spawn")
    with (
        _environment(STEADY_MALLOC),
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process,
    ):
        lines = list(
            process.map(_line, trials, map(store.run_folder, trials), [place] * len(trials))
        )
    write_text(store.folder / LATENCY, as_csv(lines))
    return ""


def _networks(store: Store, plan: Plan) -> list[Trial]:
    """One chosen trial per arm, scheme and point: of the first seed whose file is there."""
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
        repeats = _repeats(model, inputs)
        try:
            result = bench(trial.identity, model, inputs, repeats=repeats, peers=("eager",))
        except BillhookError as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            eager, compiled = (f"{result.median(form):.4g}" for form in ("eager", "billhook"))
    return {
        "run": trial.identity,
        "input": shapes,
        "eager_ms": eager,
        "compiled_ms": compiled,
        "failure": failure,
        "machine": provenance()["machine"],
    }


def _repeats(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """How many calls a round needs to last long enough for the clock."""
    with torch.no_grad():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            model(*inputs)
            times.append(time.perf_counter() - start)
    return 1 + int(_SHORTEST / max(min(times), 1e-7))


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
