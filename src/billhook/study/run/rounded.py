"""The chosen networks with their weights in fewer bits, in ``values.csv``: bytes and test metrics.

One line per network and kind of values: run, values, bytes, and the metrics on test data of the
network as read back from such a file. It is measured once a study is complete, for what the study's
``values`` name; nothing is trained for it.
"""

import tempfile
from pathlib import Path

import torch

import billhook
from billhook.atomic import write_text
from billhook.study.grid import Plan, Trial
from billhook.study.records.details import Line, as_csv, read_values
from billhook.study.records.reading import VALUES
from billhook.study.records.store import Store
from billhook.study.run.trial import evaluated_on_test
from billhook.study.sizes import encoding_of
from billhook.study.subject import Place
from billhook.training.loop import MODEL_FILE

__all__ = ["measure_values"]

#: By their names in study files, what :func:`billhook.save` calls them.
STORED = {"fp16": "F16", "bf16": "BF16", "int8": "I8"}


def measure_values(store: Store, plan: Plan, place: Place) -> int:
    """Measure what ``values.csv`` lacks, of the networks whose files are there; how many lines."""
    metrics = [metric.name for metric in plan.study.metrics]
    lines: list[Line] = [*read_values(store.folder, metrics)]
    known = {(line["run"], line["values"]) for line in lines}
    rows = store.records.by_run()
    new = [
        _line(trial, values, store.run_folder(trial), place)
        for trial in plan.trials
        if trial.identity in rows and rows[trial.identity].chosen and not trial.variant
        if (store.run_folder(trial) / MODEL_FILE).exists()
        for values in plan.study.values
        if (trial.identity, values) not in known
    ]
    if new:
        write_text(store.folder / VALUES, as_csv([*lines, *new]))
    return len(new)


def _line(trial: Trial, values: str, folder: Path, place: Place) -> Line:
    tensors = billhook.load(folder / MODEL_FILE)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / MODEL_FILE
        billhook.save(tensors, file, encoding=encoding_of(trial.codings), values=STORED[values])
        with torch.random.fork_rng(devices=[]):
            test = evaluated_on_test(trial, Path(scratch), place)
        size = file.stat().st_size
    return {"run": trial.identity, "values": values, "bytes": size, **test}
