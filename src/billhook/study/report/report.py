"""The report of a study: everything that its folder says so far, weighed."""

import dataclasses

from billhook.errors import FormatError, StateError
from billhook.study.analysis.comparison import Design
from billhook.study.analysis.equal_latency import EqualLatency, Timed, equal_latency, timed
from billhook.study.analysis.findings import Findings, find
from billhook.study.analysis.latency_verdict import latency_verdict
from billhook.study.analysis.rounded import rounded
from billhook.study.analysis.variants import variants, what_mattered
from billhook.study.analysis.verdict import verdict
from billhook.study.grid import DENSE, LONGER
from billhook.study.published import PublishedTable, published_table
from billhook.study.records.details import read_curves, read_layers, read_values
from billhook.study.records.latency import Timing, read_latency
from billhook.study.records.rows import RunRow, runs_of
from billhook.study.records.store import Store
from billhook.study.report.latency_sheets import (
    equal_latency_sheet,
    latency_failure_sheet,
    latency_sheet,
)
from billhook.study.report.sheet import Sheet
from billhook.study.report.sheets import (
    comparison_sheet,
    control_sheet,
    cost_sheet,
    failure_sheet,
    loss_sheet,
    published_sheet,
    reading_sheet,
    size_sheet,
    values_sheet,
    variant_sheet,
)
from billhook.study.spec import Study
from billhook.tasks.task import Metric

__all__ = ["StudyReport", "load_report"]

#: A line of curves.csv or layers.csv by column.
Table = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """Everything a study has to say so far.

    ``findings`` has a list for each metric, the study's first one first, with one for each scheme.
    """

    study: Study
    provenance: dict[str, str]
    rows: list[RunRow]
    design: Design
    findings: list[list[Findings]]
    curves: Table
    layers: Table
    latency: list[Timing]
    values: Table
    published: PublishedTable | None

    @property
    def partial(self) -> bool:
        """Whether runs are missing."""
        return len(self.rows) < runs_of(self.study, self.rows)

    @property
    def status(self) -> str:
        """A note that the study is partial, and what follows from that; "" if it is complete."""
        if not self.partial:
            return ""
        total = runs_of(self.study, self.rows)
        return (
            f"Partial: {len(self.rows)} of {total} runs are finished. Intervals and p-values hold "
            "for a study whose length was fixed beforehand: wait for the complete one's verdict."
        )

    @property
    def verdicts(self) -> list[list[str]]:
        """The words of every metric and scheme, the headline first."""
        words = [verdict(each) for findings in self.findings for each in findings]
        words += latency_verdict(self.equal_latency, self.metric)
        for findings in self.findings:
            metric = findings[0].metric
            words += what_mattered(variants(self.rows, metric), metric, self.design)
        return words

    @property
    def metric(self) -> Metric:
        """The study's own, which the verdict is about."""
        return self.findings[0][0].metric

    @property
    def timed(self) -> list[Timed]:
        """Every network by every form that ran it."""
        return timed(self.rows, self.latency, self.metric)

    @property
    def equal_latency(self) -> list[EqualLatency]:
        """The arms at equal latency, and against the controls where there are some."""
        return [
            each
            for against in (DENSE, LONGER)
            for each in equal_latency(self.timed, self.metric, self.design, against)
        ]

    @property
    def rounded(self) -> dict[str, list[RunRow]]:
        """The chosen rows by the values that their files hold, where others were measured."""
        metrics = [findings[0].metric.name for findings in self.findings]
        return rounded(self.rows, self.values, metrics)

    @property
    def sheets(self) -> list[Sheet]:
        """Every table with anything in it."""
        flat = [each for findings in self.findings for each in findings]
        cells = self.findings[0][0].cells
        sheets = [comparison_sheet(each) for each in flat if each.comparisons]
        sheets += [control_sheet(each) for each in flat if each.control]
        sheets += [loss_sheet(each) for each in flat]
        sheets += [reading_sheet(each) for each in flat]
        sheets += [values_sheet(each, self.design, self.rounded) for each in flat]
        sheets += [variant_sheet(each[0].metric, self.rows) for each in self.findings]
        sheets += [size_sheet(cells), cost_sheet(cells)]
        sheets += [equal_latency_sheet(self.metric, each) for each in self.equal_latency]
        sheets.append(latency_sheet(self.metric, self.timed, self.latency))
        sheets += [latency_failure_sheet(self.latency, self.rows), failure_sheet(self.rows)]
        if self.published is not None:
            sheets.append(published_sheet(self.published))
        return [sheet for sheet in sheets if sheet.rows]


def load_report(store: Store) -> StudyReport:
    """The report of a study, from study.json and the CSV files alone.

    Raises:
        StateError: no run has succeeded yet.
    """
    study, rows = store.study(), store.records.rows()
    if not any(row.chosen for row in rows):
        raise StateError(_nothing(store, rows))
    metrics = _reported(study, rows)
    if not metrics:
        raise FormatError(
            f"the rows in {store.folder} have none of the metrics that its study.json names: "
            "restore them"
        )
    design = Design(paired=study.own_splits)
    return StudyReport(
        study=study,
        provenance=store.provenance(),
        rows=rows,
        design=design,
        findings=[
            [find(rows, metric, design, study.margin, scheme) for scheme in study.schemes]
            for metric in metrics
        ],
        curves=read_curves(store.folder, [m.name for m in study.metrics if not m.test_only]),
        layers=read_layers(store.folder),
        latency=read_latency(store.folder),
        values=read_values(store.folder, [metric.name for metric in metrics]),
        published=published_table(study.family),
    )


def _nothing(store: Store, rows: list[RunRow]) -> str:
    if not rows:
        return (
            f"{store.folder} has no rows to report yet, they come with the first finished runs: "
            "`billhook study run` continues it"
        )
    return (
        f"all {len(rows)} runs failed, the first with {rows[0].failure}: see {store.folder}, "
        "repair that, and give --retry-failed"
    )


def _reported(study: Study, rows: list[RunRow]) -> list[Metric]:
    """The study's metric first, then the others that were measured on test data."""
    measured = {name for row in rows for name in row.test}
    metrics = [metric for metric in study.metrics if metric.name in measured]
    return sorted(metrics, key=lambda metric: metric.name != study.metric)
