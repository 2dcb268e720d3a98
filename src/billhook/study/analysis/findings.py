"""All findings about one test metric of a study, for one pruning scheme."""

import dataclasses
from collections.abc import Sequence

from billhook.study.analysis.cells import Cell, cells
from billhook.study.analysis.comparison import Comparison, Design, Difference, compare, contrast
from billhook.study.analysis.equal_metric import Reading, read_across
from billhook.study.analysis.minimal_loss import Loss, losses
from billhook.study.grid import LONGER
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = ["Findings", "find"]


@dataclasses.dataclass(frozen=True)
class Findings:
    """Comparisons at equal bytes, the declared contrast, the control, and what pruning costs.

    ``control`` and ``control_contrast`` are against the small dense networks trained longer, to
    equal training operations; empty and None in a study without them. ``cells`` are of all schemes.
    """

    metric: Metric
    scheme: str
    margin: float
    comparisons: list[Comparison]
    contrast: Difference | None
    control: list[Comparison]
    control_contrast: Difference | None
    losses: list[Loss]
    readings: list[Reading]
    cells: list[Cell]


def find(
    rows: Sequence[RunRow], metric: Metric, design: Design, margin: float, scheme: str
) -> Findings:
    """Weigh the chosen runs of a study in one metric."""
    return Findings(
        metric=metric,
        scheme=scheme,
        margin=margin,
        comparisons=compare(rows, metric, design, scheme=scheme),
        contrast=contrast(rows, metric, design, scheme=scheme),
        control=compare(rows, metric, design, scheme=scheme, against=LONGER),
        control_contrast=contrast(rows, metric, design, scheme=scheme, against=LONGER),
        losses=losses(rows, metric, design, margin, scheme=scheme),
        readings=read_across(rows, metric, design, scheme=scheme),
        cells=cells(rows, metric),
    )
