"""The rows of a study, one a trial, and their CSV: all that reports are made from."""

import csv
import dataclasses
import io
import typing
from collections.abc import Iterable

from billhook.errors import FormatError
from billhook.study.grid import Trial
from billhook.study.run.trial import Outcome
from billhook.study.spec import Study

__all__ = ["Row", "parse_rows", "rows_as_csv", "runs_of"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial and what came of it.

    ``scheme`` is the sparse arm's, ``variant`` what a study of tuning varied, both empty else.
    ``bytes`` is the size of the file written, in the study's codings; ``bytes_*`` what the trained
    network takes in one coding each (every tensor dense where that is smaller). Operations are
    multiply-adds: of the whole training, three times the forward pass; and of one example at
    inference, zeros skipped. ``test`` is empty unless validation data chose the trial. A failed
    trial has its reason in ``failure``, zeros for all that was to be measured, and no metrics.
    """

    run: str
    arm: str
    scheme: str
    variant: str
    point: int
    width: float
    sparsity: float
    seed: int
    learning_rate: float
    dropout: float | None
    steps: int
    parameters: int
    nonzero: int
    bytes: int
    bytes_dense: int
    bytes_bitmask: int
    bytes_relative_index: int
    bytes_entropy: int
    training_operations: int
    inference_operations: int
    seconds: float
    chosen: bool
    failure: str
    validation: dict[str, float]
    test: dict[str, float]

    @classmethod
    def of(
        cls,
        trial: Trial,
        outcome: Outcome | None,
        test: dict[str, float] | None = None,
        failure: str = "",
    ) -> "Row":
        """The row of a trial that ended with an outcome, chosen if it has ``test``, or failed."""
        asked = {name: getattr(trial, name) for name in _ASKED}
        if outcome is None:
            nothing = dict.fromkeys(_MEASURED, 0) | {"seconds": 0.0, "validation": {}}
            found: dict[str, typing.Any] = nothing
        else:
            found = {name: getattr(outcome, name) for name in (*_MEASURED, "validation")}
        return cls(
            run=trial.identity,
            chosen=test is not None,
            failure=failure,
            test=test or {},
            **asked,
            **found,
        )

    @property
    def outcome(self) -> Outcome | None:
        """What the trial came to; None if it failed."""
        if self.failure:
            return None
        found = {name: getattr(self, name) for name in _MEASURED}
        return Outcome(**found, validation=self.validation)


def runs_of(study: Study, rows: Iterable[Row]) -> int:
    """How many runs the study has, without those for which nothing will ever be chosen.

    That are the other seeds' of a group whose trials all failed on the first seed, where that one
    chooses for all.
    """
    if study.tune == "each-seed":
        return study.runs
    first = [row for row in rows if row.seed == study.seeds[0]]
    settled = {(row.arm, row.scheme, row.variant, row.point) for row in first}
    chosen = {(row.arm, row.scheme, row.variant, row.point) for row in first if row.chosen}
    return study.runs - len(settled - chosen) * (len(study.seeds) - 1)


_ASKED = (
    *("arm", "scheme", "variant", "point", "width", "sparsity", "seed", "learning_rate"),
    *("dropout", "steps"),
)
_MEASURED = tuple(each.name for each in dataclasses.fields(Outcome) if each.name != "validation")
_METRICS = ("validation", "test")
_TYPES = {k: t for k, t in typing.get_type_hints(Row).items() if k not in _METRICS}


def rows_as_csv(rows: Iterable[Row]) -> str:
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


def parse_rows(text: str, source: str) -> list[Row]:
    """The rows that :func:`rows_as_csv` wrote.

    Raises:
        FormatError: ``source`` holds something else.
    """
    try:
        return [_parse(line) for line in csv.DictReader(io.StringIO(text), strict=True)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise FormatError(
            f"{source} is not the rows.csv of a study ({error!r}): restore it, or delete it and "
            "run the study again"
        ) from None


def _written(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(line: dict[str, str]) -> Row:
    fixed = {name: _read(line[name], kind) for name, kind in _TYPES.items()}
    metrics: dict[str, typing.Any] = {
        part: {
            column.removeprefix(f"{part}_"): float(value)
            for column, value in line.items()
            if column.startswith(f"{part}_") and value
        }
        for part in _METRICS
    }
    return Row(**fixed, **metrics)


def _read(text: str, kind: typing.Any) -> typing.Any:
    if kind is bool:
        return bool(int(text))
    if kind in (int, float, str):
        return kind(text)
    return float(text) if text else None  # float | None
