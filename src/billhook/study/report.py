"""The report of a finished study: everything that its folder says, weighed."""

import dataclasses
from pathlib import Path

from billhook.errors import StateError
from billhook.study.comparison import Design
from billhook.study.details import read_table
from billhook.study.findings import Findings, find
from billhook.study.grid import SPARSE
from billhook.study.published import PublishedTable, published_table
from billhook.study.rows import Row
from billhook.study.sheet import Sheet
from billhook.study.sheets import (
    comparison_sheet,
    control_sheet,
    cost_sheet,
    failure_sheet,
    loss_sheet,
    published_sheet,
    reading_sheet,
    size_sheet,
    variant_sheet,
)
from billhook.study.spec import Study
from billhook.study.store import Store
from billhook.study.verdict import verdict
from billhook.tasks.task import Metric

__all__ = ["Report", "load_report"]

#: Families whose seeds each draw a split of their own, which the arms share.
_OWN_SPLITS = {"digits"}

#: A line of curves.csv or layers.csv by column.
Table = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a finished study has to say.

    ``findings`` has a list for each metric, the study's first one first, with one for each scheme.
    """

    study: Study
    provenance: dict[str, str]
    rows: list[Row]
    design: Design
    findings: list[list[Findings]]
    curves: Table
    layers: Table
    published: PublishedTable | None

    @property
    def verdicts(self) -> list[list[str]]:
        """The words of every metric and scheme, the headline first."""
        return [verdict(each) for findings in self.findings for each in findings]

    @property
    def sheets(self) -> list[Sheet]:
        """Every table with anything in it."""
        flat = [each for findings in self.findings for each in findings]
        cells = self.findings[0][0].cells
        sheets = [comparison_sheet(each) for each in flat if each.comparisons]
        sheets += [control_sheet(each) for each in flat if each.control]
        sheets += [loss_sheet(each) for each in flat]
        sheets += [reading_sheet(each) for each in flat]
        sheets += [variant_sheet(findings[0].metric, self.rows) for findings in self.findings]
        sheets += [size_sheet(cells), cost_sheet(cells), failure_sheet(self.rows)]
        if self.published is not None:
            sheets.append(published_sheet(self.published))
        return [sheet for sheet in sheets if sheet.rows]


def load_report(store: Store) -> Report:
    """The report of a finished study, from study.json and the CSV files alone.

    Raises:
        StateError: the study is not finished.
    """
    study, rows = store.study(), store.rows()
    if rows is None:
        raise StateError(
            f"the study in {store.folder} is not finished: `billhook study run` continues it"
        )
    design = Design(paired=study.family in _OWN_SPLITS)
    schemes = dict.fromkeys(row.scheme for row in rows if row.arm == SPARSE)
    return Report(
        study=study,
        provenance=store.provenance(),
        rows=rows,
        design=design,
        findings=[
            [find(rows, metric, design, study.margin, scheme) for scheme in schemes]
            for metric in _reported(study, rows)
        ],
        curves=_table(store.folder / "curves.csv"),
        layers=_table(store.folder / "layers.csv"),
        published=published_table(study.family),
    )


def _reported(study: Study, rows: list[Row]) -> list[Metric]:
    """The study's metric first, then the others that were measured on test data."""
    measured = {name for row in rows for name in row.test}
    metrics = [metric for metric in study.metrics if metric.name in measured]
    return sorted(metrics, key=lambda metric: metric.name != study.metric)


def _table(path: Path) -> Table:
    """The lines of a CSV file; none where it is not there."""
    return read_table(path) if path.exists() else []
