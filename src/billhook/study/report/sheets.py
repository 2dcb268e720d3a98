"""The tables of a report."""

from collections.abc import Mapping, Sequence

from billhook.study.analysis.cells import Cell
from billhook.study.analysis.cells import cells as cells_of
from billhook.study.analysis.comparison import CLAIM_SEEDS, Comparison, Design
from billhook.study.analysis.energy import energy
from billhook.study.analysis.equal_metric import read_across
from billhook.study.analysis.findings import Findings
from billhook.study.analysis.statistics import LEVEL, Interval
from billhook.study.analysis.variants import against_own, variants
from billhook.study.analysis.verdict import saved
from billhook.study.grid import SPARSE, scheme_label
from billhook.study.published import PublishedTable
from billhook.study.records.rows import RunRow
from billhook.study.report.charts.axes import titled
from billhook.study.report.sheet import Sheet
from billhook.tasks.task import Metric

__all__ = [
    "CODINGS",
    "NANOJOULES",
    "comparison_sheet",
    "control_sheet",
    "cost_sheet",
    "failure_sheet",
    "loss_sheet",
    "published_sheet",
    "reading_sheet",
    "size_sheet",
    "values_sheet",
    "variant_sheet",
]

#: In a microjoule, which tables and charts show; the model counts in nanojoules.
NANOJOULES = 1000.0

#: By their names in the rows.
CODINGS = {"dense": "dense", "bitmask": "bit mask", "relative_index": "relative index"}
CODINGS |= {"entropy": "entropy"}


def comparison_sheet(findings: Findings) -> Sheet:
    """Both arms at every size."""
    return _compared(findings, findings.comparisons, "at equal bytes")


def control_sheet(findings: Findings) -> Sheet:
    """The sparse arm against small dense networks trained to equal training operations."""
    return _compared(findings, findings.control, "at equal bytes and training operations")


def loss_sheet(findings: Findings) -> Sheet:
    """What pruning costs against the large network left dense."""
    metric = findings.metric
    margin = f"{findings.margin:.2%} margin"
    rows = [
        (
            f"{loss.sparsity:.2%}",
            f"{loss.nonzero:,.0f}",
            f"{loss.reduction:.2f}",
            _mean(metric, loss.sparse),
            f"{(loss.sparse.mean - loss.dense.mean) / abs(loss.dense.mean):+.2%}",
            _signed(metric, loss.slack, loss.claimed),
            "yes" if loss.within else "not shown",
        )
        for loss in findings.losses
    ]
    headings = (
        *("sparsity", "nonzero", "times fewer", f"test {metric.label}", "change"),
        *(f"left of the {margin}", "within"),
    )
    return Sheet(_title(findings, "over sparsity: what pruning costs"), headings, tuple(rows))


def reading_sheet(findings: Findings) -> Sheet:
    """How many times the bytes dense networks need for the same metric."""
    rows = [(f"{reading.cost:,.0f}", saved(reading)) for reading in findings.readings]
    headings = "bytes of the sparse file", "times the bytes, dense, for the same metric"
    return Sheet(_title(findings, "at equal quality: bytes saved"), headings, tuple(rows))


def values_sheet(
    findings: Findings, design: Design, kinds: Mapping[str, Sequence[RunRow]]
) -> Sheet:
    """Every network in every kind of values, and how many times the bytes dense ones of the same
    kind need for the metric of a sparse one."""
    metric, scheme = findings.metric, findings.scheme
    lines = []
    for kind, rows in kinds.items():
        readings = read_across(rows, metric, design, scheme=scheme)
        factors = {reading.cost: saved(reading) for reading in readings}
        for cell in cells_of(rows, metric):
            if cell.row.scheme in ("", scheme):
                pruned = cell.row.arm == SPARSE
                factor = factors.get(cell.row.bytes, "") if pruned else ""
                row = cell.label, kind, f"{cell.row.bytes:,}", _mean(metric, cell.score), factor
                lines.append(row)
    headings = (
        *("network", "values", "bytes", f"test {metric.label}"),
        "times the bytes, dense, for the same metric",
    )
    title = _title(findings, "with weights in fewer bits")
    return Sheet(title, headings, tuple(lines), keys=2)


def size_sheet(cells: Sequence[Cell]) -> Sheet:
    """Parameters, nonzeros and bytes in every coding."""
    rows = [
        (
            cell.label,
            *(f"{getattr(cell.row, name):,}" for name in ("parameters", "nonzero", "bytes")),
            f"{cell.row.bytes - cell.row.point:+,}",
            f"{cell.row.bytes - 4 * cell.row.nonzero:,}",
            *(f"{getattr(cell.row, f'bytes_{name}'):,}" for name in CODINGS),
        )
        for cell in cells
    ]
    headings = (
        *("network", "parameters", "nonzero", "bytes of the file", "off the size matched"),
        *("of these not fp32 values", *(f"as {name}" for name in CODINGS.values())),
    )
    return Sheet("Sizes", headings, tuple(rows))


def cost_sheet(cells: Sequence[Cell]) -> Sheet:
    """What training and one inference take."""
    rows = []
    for cell in cells:
        row, used = cell.row, energy(cell.row)
        rows.append(
            (
                cell.label,
                f"{row.steps:,}",
                f"{row.training_operations:.3g}",
                f"{row.seconds:,.1f}",
                f"{row.inference_operations:,}",
                f"{used.arithmetic / NANOJOULES:,.3g}",
                f"{used.memory / NANOJOULES:,.3g}",
            )
        )
    headings = (
        *("network", "steps", "training multiply-adds", "seconds (first seed)"),
        *("multiply-adds an example", "arithmetic uJ (model)", "memory uJ (model)"),
    )
    return Sheet("Cost of training and of one inference", headings, tuple(rows))


def variant_sheet(metric: Metric, rows: Sequence[RunRow]) -> Sheet:
    """What a study of tuning varied, each variant over its seeds and beside the recipe's own."""
    lines = [
        (
            each.label,
            each.scheme,
            f"{each.sparsity:.2%}",
            str(len(each.scores)),
            _plain(metric, each.score, len(each.scores) >= CLAIM_SEEDS),
            "" if difference is None else _signed(metric, difference, True),
            "" if difference is None else f"{p:.2g}",
        )
        for each, difference, p in against_own(variants(rows, metric))
    ]
    headings = (
        *("variant", "scheme", "sparsity", "seeds", _heading(metric)),
        *("less the recipe's own, 95% interval", "p (Holm)"),
    )
    return Sheet(f"Variants of the pruning: test {metric.label}", headings, tuple(lines))


def failure_sheet(rows: Sequence[RunRow]) -> Sheet:
    """Runs that failed, and why."""
    lines = [(row.run, row.failure) for row in rows if row.failure]
    return Sheet("Runs that failed", ("run", "reason"), tuple(lines))


def published_sheet(table: PublishedTable) -> Sheet:
    """The paper's own points."""
    names = list(table.points[0].metrics)
    lines = [
        (p.model, f"{p.sparsity:.1%}", p.nnz, *(f"{p.metrics[name]:g}" for name in names))
        for p in table.points
    ]
    title = f"The paper's own: Table {table.number}, {table.data}"
    return Sheet(title, ("model", "sparsity", "NNZ", *names), tuple(lines))


def _compared(findings: Findings, comparisons: Sequence[Comparison], how: str) -> Sheet:
    metric = findings.metric
    lines = [
        (
            f"{c.point:,}",
            _mean(metric, c.dense),
            _mean(metric, c.sparse),
            _signed(metric, c.difference.interval, c.difference.claimed),
            f"{c.difference.p:.2g}" if c.difference.claimed else "",
            _winner(c),
        )
        for c in comparisons
    ]
    level = f"difference, {LEVEL:.0%} interval"
    against = comparisons[0].difference.against
    headings = "bytes", against, SPARSE, level, "p (Holm)", "wins"
    return Sheet(_title(findings, how), headings, tuple(lines))


def _winner(comparison: Comparison) -> str:
    if not comparison.difference.claimed:
        return "no claim"
    return comparison.difference.winner or "undecided"


def _title(findings: Findings, what: str) -> str:
    metric = findings.metric
    better = "higher" if metric.higher_is_better else "lower"
    label = scheme_label(findings.scheme)
    scheme = f"{label} pruning" if label else ""
    return titled(f"Test {metric.label} {what}", metric.shown_in, f"{better} is better", scheme)


def _heading(metric: Metric) -> str:
    return titled(f"test {metric.label}", metric.shown_in)


def _mean(metric: Metric, interval: Interval) -> str:
    return f"{metric.scale * interval.mean:.{metric.digits}f}"


def _plain(metric: Metric, interval: Interval, claimed: bool) -> str:
    return _with_ends(interval.scaled(metric.scale), f".{metric.digits}f", claimed)


def _signed(metric: Metric, interval: Interval, claimed: bool) -> str:
    return _with_ends(interval.scaled(metric.scale), f"+.{metric.digits}f", claimed)


def _with_ends(shown: Interval, form: str, claimed: bool) -> str:
    mean = f"{shown.mean:{form}}"
    return f"{mean} ({shown.low:{form}} to {shown.high:{form}})" if claimed else mean
