"""The rows of a study, one a trial, and their CSV: all that reports are made from."""

import csv
import dataclasses
import io
from collections.abc import Iterable

from billhook.errors import FormatError
from billhook.study.grid import Trial
from billhook.study.trial import Outcome

__all__ = ["Row", "parse_rows", "rows_as_csv"]

_FIELDS = (
    "run",
    "arm",
    "point",
    "width",
    "sparsity",
    "seed",
    "learning_rate",
    "bytes",
    "nonzero",
    "chosen",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial and what came of it; ``test`` is empty unless validation data chose the trial."""

    run: str
    arm: str
    point: int
    width: int
    sparsity: float
    seed: int
    learning_rate: float
    bytes: int
    nonzero: int
    chosen: bool
    validation: dict[str, float]
    test: dict[str, float]

    @classmethod
    def of(cls, trial: Trial, outcome: Outcome, test: dict[str, float] | None) -> "Row":
        """The row of a finished trial; ``test`` is None when it was not chosen."""
        return cls(
            run=trial.identity,
            arm=trial.arm,
            point=trial.point,
            width=trial.width,
            sparsity=trial.sparsity,
            seed=trial.seed,
            learning_rate=trial.learning_rate,
            bytes=outcome.bytes,
            nonzero=outcome.nonzero,
            chosen=test is not None,
            validation=outcome.validation,
            test=test or {},
        )


def rows_as_csv(rows: Iterable[Row]) -> str:
    """CSV text; floats are written so that reading them back gives the same bits."""
    rows = list(rows)
    metrics = list(rows[0].validation) if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*_FIELDS, *(f"{part}_{m}" for part in ("validation", "test") for m in metrics)]
    )
    for row in rows:
        fixed = [getattr(row, name) for name in _FIELDS[:-1]]
        scores = [repr(row.validation[m]) for m in metrics]
        tested = [repr(row.test[m]) if row.chosen else "" for m in metrics]
        writer.writerow([*fixed, int(row.chosen), *scores, *tested])
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


def _parse(line: dict[str, str]) -> Row:
    chosen = bool(int(line["chosen"]))
    return Row(
        run=line["run"],
        arm=line["arm"],
        point=int(line["point"]),
        width=int(line["width"]),
        sparsity=float(line["sparsity"]),
        seed=int(line["seed"]),
        learning_rate=float(line["learning_rate"]),
        bytes=int(line["bytes"]),
        nonzero=int(line["nonzero"]),
        chosen=chosen,
        validation=_metrics(line, "validation_"),
        test=_metrics(line, "test_") if chosen else {},
    )


def _metrics(line: dict[str, str], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): float(v) for k, v in line.items() if k.startswith(prefix)}
