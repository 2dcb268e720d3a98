"""The tables of a report."""

import math
from collections.abc import Sequence

from billhook.study.cells import Cell
from billhook.study.comparison import Comparison, summary
from billhook.study.energy import energy
from billhook.study.family import Metric
from billhook.study.findings import Findings
from billhook.study.rows import Row
from billhook.study.sheet import Sheet
from billhook.study.statistics import Interval
from billhook.study.verdict import saved

__all__ = [
    "comparison_sheet",
    "control_sheet",
    "cost_sheet",
    "failure_sheet",
    "loss_sheet",
    "reading_sheet",
    "size_sheet",
    "variant_sheet",
]


def comparison_sheet(findings: Findings) -> Sheet:
    """Both arms at every size."""
    return _compared(findings, findings.comparisons, "at equal bytes")


def control_sheet(findings: Findings) -> Sheet:
    """The sparse arm against small dense networks trained to equal training operations."""
    return _compared(findings, findings.control, "at equal bytes and training operations")


def loss_sheet(findings: Findings) -> Sheet:
    """What pruning costs against the large network left dense."""
    metric = findings.metric
    sign = 1.0 if metric.higher_is_better else -1.0
    margin = f"{findings.margin:.2%} margin"
    rows = [
        (
            f"{loss.sparsity:.2%}",
            f"{loss.nonzero:,.0f}",
            f"{loss.reduction:.2f}",
            _mean(metric, loss.sparse),
            f"{(loss.sparse.mean - loss.dense.mean) / abs(loss.dense.mean):+.2%}",
            _signed(metric, loss.slack.scaled(sign) if False else loss.slack, loss.claimed),
            "yes" if loss.within else "not shown",
        )
        for loss in findings.losses
    ]
    headings = (
        *("sparsity", "nonzero", "times fewer", f"test {metric.label}", "change"),
        *(f"left of the {margin}", "within"),
    )
    return Sheet(_title(findings, "what pruning costs"), headings, tuple(rows))


def reading_sheet(findings: Findings) -> Sheet:
    """How many times the bytes dense networks need for the same metric."""
    rows = [(f"{reading.bytes:,}", saved(reading)) for reading in findings.readings]
    headings = "bytes of the sparse file", "times the bytes, dense, for the same metric"
    return Sheet(_title(findings, "bytes saved at an equal metric"), headings, tuple(rows))


def size_sheet(cells: Sequence[Cell]) -> Sheet:
    """Parameters, nonzeros and bytes in every coding."""
    rows = [
        (
            cell.label,
            *(f"{getattr(cell.row, name):,}" for name in ("parameters", "nonzero", "bytes")),
            f"{cell.row.bytes - cell.row.point:+,}" if cell.row.point else "",
            f"{cell.row.bytes - 4 * cell.row.nonzero:,}",
            *(f"{getattr(cell.row, f'bytes_{coding}'):,}" for coding in CODINGS),
        )
        for cell in cells
    ]
    headings = (
        *("network", "parameters", "nonzero", "bytes of the file", "off the size matched"),
        *("of these not fp32 values", *(f"as {coding.replace('_', ' ')}" for coding in CODINGS)),
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
                f"{used.arithmetic:,.1f}",
                f"{used.memory:,.1f}",
            )
        )
    headings = (
        *("network", "steps", "training multiply-adds", "seconds (first seed)"),
        *("multiply-adds an example", "arithmetic nJ (model)", "memory nJ (model)"),
    )
    return Sheet("Cost of training and of one inference", headings, tuple(rows))
