"""Two finished studies beside each other: what differs in them, and in what they found."""

from typing import Any

from billhook.errors import ConfigurationError
from billhook.study.analysis.cells import Cell
from billhook.study.analysis.comparison import CLAIM_SEEDS, Design, scores
from billhook.study.analysis.statistics import LEVEL
from billhook.study.report.report import StudyReport
from billhook.study.report.sheet import Sheet

__all__ = ["configuration_sheet", "difference_sheet"]


def configuration_sheet(a: StudyReport, b: StudyReport) -> Sheet:
    """Every setting in which the studies differ, and the code and machine that ran them."""
    ours, theirs = (_flat(each.study.model_dump(mode="json")) | each.provenance for each in (a, b))
    rows = [
        (key, str(ours.get(key, "")), str(theirs.get(key, "")))
        for key in dict.fromkeys((*ours, *theirs))
        if ours.get(key) != theirs.get(key)
    ]
    return Sheet("What differs", ("setting", a.study.name, b.study.name), tuple(rows))


def difference_sheet(a: StudyReport, b: StudyReport) -> Sheet:
    """Means of matching networks, the second study's minus the first's.

    Networks match by arm, scheme, width and sparsity (to 0.1 points). The studies are independent:
    Welch's intervals, one per row, without a correction for their number.

    Raises:
        ConfigurationError: the studies have no metric, or no network, in common.
    """
    first, second = a.findings[0][0], b.findings[0][0]
    metric = first.metric
    if metric != second.metric:
        raise ConfigurationError(
            f"{a.study.name} reports {metric.name}, {b.study.name} {second.metric.name}: only "
            "studies of the same metric can be compared"
        )
    theirs = {_key(cell): cell for cell in second.cells}
    pairs = [(cell, theirs[_key(cell)]) for cell in first.cells if _key(cell) in theirs]
    if not pairs:
        raise ConfigurationError(
            f"no network of {a.study.name} is in {b.study.name}: arm, scheme, width and sparsity "
            "have to be equal"
        )
    rows = []
    for ours, other in pairs:
        means = [metric.scale * cell.score.mean for cell in (ours, other)]
        row = ours.label, f"{ours.row.bytes:,}", f"{other.row.bytes:,}"
        rows.append((*row, *(f"{m:.{metric.digits}f}" for m in means), _change(a, b, ours, other)))
    headings = (
        *("network", f"bytes, {a.study.name}", f"bytes, {b.study.name}"),
        *(a.study.name, b.study.name, f"difference, {LEVEL:.0%} interval"),
    )
    return Sheet(f"Test {metric.label}, second minus first", headings, tuple(rows))


def _change(a: StudyReport, b: StudyReport, ours: Cell, other: Cell) -> str:
    metric = a.findings[0][0].metric
    form = f"+.{metric.digits}f"
    if min(ours.seeds, other.seeds) < CLAIM_SEEDS:
        mean = metric.scale * (other.score.mean - ours.score.mean)
        return f"{mean:{form}} (no interval claimed)"
    samples = [
        scores(report.rows, metric, cell.row.arm, point=cell.row.point, scheme=cell.row.scheme)
        for report, cell in ((a, ours), (b, other))
    ]
    shown = Design(paired=False).difference(samples[1], samples[0]).interval().scaled(metric.scale)
    return f"{shown.mean:{form}} ({shown.low:{form}} to {shown.high:{form}})"


def _key(cell: Cell) -> tuple[str, str, float, float]:
    row = cell.row
    return row.arm, row.scheme, row.width, round(row.sparsity, 3)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return flat
