"""How fast the chosen networks are, in ``latency.csv``: a line for each network and form.

Columns: run, form, input, milliseconds, clock, machine, isa, threads, failure, and the test metrics
of forms that compute other numbers than the network that was trained, those of billhook in 8 bits.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from billhook.errors import FormatError
from billhook.study.records.reading import LATENCY, read_table

__all__ = ["EAGER", "FP32", "INT8", "Timing", "latency_csv", "read_latency"]

#: The forms that every network has: torch, and billhook's programs in both precisions.
EAGER, FP32, INT8 = "eager", "billhook fp32", "billhook int8"


@dataclasses.dataclass(frozen=True)
class Timing:
    """One network run by one form.

    ``milliseconds`` are the median of rounds in which the forms of all networks of a seed took
    turns; None where there is a ``failure``. ``clock``: "cpu" for processor time of the process,
    "wall" for elapsed time. ``isa`` is the best instruction set that the processor has. ``test``
    is empty where the numbers are those of the network as it was trained, or nearly so.
    """

    run: str
    form: str
    input: str
    milliseconds: float | None
    clock: str
    machine: str
    isa: str
    threads: int
    failure: str = ""
    test: dict[str, float] = dataclasses.field(default_factory=dict)


_TEXTS = ("run", "form", "input", "clock", "machine", "isa", "failure")


def latency_csv(timings: Iterable[Timing], metrics: Sequence[str]) -> str:
    """The text of ``latency.csv``, with a column for each of the metrics."""
    text = io.StringIO()
    fixed = [f.name for f in dataclasses.fields(Timing) if f.name != "test"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*fixed, *(f"test_{name}" for name in metrics)])
    for each in timings:
        values = [getattr(each, name) for name in fixed]
        cells = ["" if value is None else value for value in values]
        writer.writerow([*cells, *(each.test.get(name, "") for name in metrics)])
    return text.getvalue()


def read_latency(folder: Path) -> list[Timing]:
    """The lines of ``latency.csv``; none where the file is not there.

    Raises:
        FormatError: a time or a metric is not a number.
    """
    path = folder / LATENCY
    if not path.exists():
        return []
    columns = {**dict.fromkeys((*_TEXTS, "milliseconds"), str), "threads": int}
    return [_parsed(line, path) for line in read_table(path, columns)]


def _parsed(line: dict[str, str], path: Path) -> Timing:
    test = {
        column.removeprefix("test_"): value
        for column, value in line.items()
        if column.startswith("test_") and value
    }
    try:
        time = float(line["milliseconds"]) if line["milliseconds"] else None
        numbers = {name: float(value) for name, value in test.items()}
        if not all(map(math.isfinite, numbers.values())):
            raise ValueError(f"a metric is not finite: {test}")
        if not (0.0 < time < math.inf if time is not None else bool(line["failure"])):
            raise ValueError(f"it takes {line['milliseconds'] or 'no'} ms")
    except ValueError as error:
        raise FormatError(
            f"{path} is damaged ({line['run']}, {line['form']}: {error}): restore it, or delete it "
            "and give `billhook study latency` again"
        ) from None
    return Timing(
        **{name: line[name] for name in _TEXTS},
        milliseconds=time,
        threads=int(line["threads"]),
        test=numbers,
    )
