"""The rows of a study, one per trial, and their CSV: reports are made from these alone."""

import csv
import dataclasses
import io
import math
import typing
from collections.abc import Iterable
from typing import Any

from billhook.errors import FormatError
from billhook.study.grid import ARMS, Condition, Trial
from billhook.study.records.outcome import Outcome
from billhook.study.records.reading import printable
from billhook.study.spec import Study

__all__ = ["RunRow", "parse_rows", "rows_as_csv", "runs_of"]


@dataclasses.dataclass(frozen=True)
class RunRow(Outcome, Condition):
    """One trial and what came of it.

    ``test`` is empty unless validation data chose the trial. A failed trial has its reason in
    ``failure``, zeros for all that was to be measured, and no metrics.
    """

    run: str
    chosen: bool
    failure: str
    test: dict[str, float]

    @classmethod
    def of(
        cls,
        trial: Trial,
        outcome: Outcome | None,
        test: dict[str, float] | None = None,
        failure: str = "",
    ) -> "RunRow":
        """The row of a trial that ended with an outcome, chosen if it has ``test``, or failed."""
        return cls(
            run=trial.identity,
            chosen=test is not None,
            failure=failure,
            test=test or {},
            **_fields(trial, Condition),
            **_fields(outcome or _NOTHING, Outcome),
        )

    @property
    def outcome(self) -> Outcome | None:
        """What the trial came to; None if it failed."""
        return None if self.failure else Outcome(**_fields(self, Outcome))


def _fields(value: Any, kind: type[Condition | Outcome]) -> dict[str, Any]:
    """The fields of ``kind`` that a value of a class below it has."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}


_NOTHING = Outcome(0, 0, 0, 0, 0, 0, 0, 0, 0, seconds=0.0, validation={})


def runs_of(study: Study, rows: Iterable[RunRow]) -> int:
    """How many runs the study has, without those for which nothing will ever be chosen.

    Those are the other seeds' runs of a group in which every trial of the first seed failed
    (``tune = "first-seed"``).
    """
    if study.tune == "each-seed":
        return study.runs
    first = [row for row in rows if row.seed == study.seeds[0]]
    settled = {(row.arm, row.scheme, row.variant, row.point) for row in first}
    chosen = {(row.arm, row.scheme, row.variant, row.point) for row in first if row.chosen}
    return study.runs - len(settled - chosen) * (len(study.seeds) - 1)


_METRICS = ("validation", "test")
_ORDER = (
    "run",
    *(field.name for field in dataclasses.fields(Condition)),
    *(field.name for field in dataclasses.fields(Outcome) if field.name not in _METRICS),
    "chosen",
    "failure",
)
_HINTS = typing.get_type_hints(RunRow)
_TYPES = {name: _HINTS[name] for name in _ORDER}


def rows_as_csv(rows: Iterable[RunRow]) -> str:
    """CSV text; floats are written so that reading them back gives the same bits."""
    rows = list(rows)
    columns = {
        part: list(dict.fromkeys(name for row in rows for name in getattr(row, part)))
        for part in _METRICS
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_TYPES, *(f"{part}_{name}" for part in _METRICS for name in columns[part])])
    for row in rows:
        fixed = [_written(getattr(row, name)) for name in _TYPES]
        scores = [_written(getattr(row, part).get(n)) for part in _METRICS for n in columns[part]]
        writer.writerow([*fixed, *scores])
    return text.getvalue()


def parse_rows(text: str, source: str) -> list[RunRow]:
    """The rows that :func:`rows_as_csv` wrote.

    Raises:
        FormatError: ``source`` holds something else.
    """
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows = []
        for number, line in enumerate(reader, start=2):
            try:
                rows.append(_parse(line))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"line {number}: {error!r}") from None
        _check(rows)
    except (ValueError, csv.Error) as error:
        raise FormatError(
            f"{source} is not the rows.csv of a study ({error}): restore it, or delete it and "
            "run the study again"
        ) from None
    return rows


def _check(rows: list[RunRow]) -> None:
    """What the analysis relies on.

    Raises:
        ValueError: a row breaks it.
    """
    if len({row.run for row in rows}) < len(rows):
        raise ValueError("a run has several rows")
    chosen, finished = (
        [row for row in rows if row.chosen],
        [row for row in rows if not row.failure],
    )
    for part, those in (("test", chosen), ("validation", finished)):
        if len({frozenset(getattr(row, part)) for row in those}) > 1:
            raise ValueError(f"some rows lack {part} metrics that others have")


def _written(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(line: dict[str, str]) -> RunRow:
    if None in line or None in line.values():
        raise ValueError("another number of columns than the first line")
    fixed = {name: _read(line[name], kind) for name, kind in _TYPES.items()}
    metrics: dict[str, typing.Any] = {
        part: {
            column.removeprefix(f"{part}_"): _finite(value)
            for column, value in line.items()
            if column.startswith(f"{part}_") and value
        }
        for part in _METRICS
    }
    row = RunRow(**printable(fixed), **printable(metrics))
    if row.arm not in ARMS or not 0 <= row.sparsity <= 1 or row.width <= 0 or row.point <= 0:
        raise ValueError(
            f"no study has arm {row.arm!r}, sparsity {row.sparsity}, width {row.width} and point "
            f"{row.point}"
        )
    counted = (row.parameters, row.nonzero, row.bytes)
    if (row.failure and row.chosen) or (not row.failure and min(counted) < 1):
        raise ValueError(f"a run that {'failed' if row.failure else 'finished'} has no such counts")
    return row


def _read(text: str, kind: typing.Any) -> typing.Any:
    if kind is bool:
        return bool(int(text))
    if kind is float:
        return _finite(text)
    if kind in (int, str):
        return kind(text)
    return _finite(text) if text else None  # float | None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
