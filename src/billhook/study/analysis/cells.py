"""Every configuration of a study that was chosen and tested, with its score over the seeds."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from billhook.study.analysis.comparison import summary
from billhook.study.analysis.statistics import Interval
from billhook.study.grid import SPARSE, scheme_label
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = ["Cell", "cells", "series_name"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """An arm at one size. ``row`` is the first seed's: what is counted is the same for all."""

    row: RunRow
    runs: tuple[str, ...]
    score: Interval

    @property
    def seeds(self) -> int:
        """How many seeds it has."""
        return len(self.runs)

    @property
    def series(self) -> str:
        """The arm, with the scheme where that is not the standard one."""
        return series_name(self.row.arm, self.row.scheme)

    @property
    def label(self) -> str:
        """Series with sparsity or width: "large-sparse 90.0%" or "small-dense width 0.25"."""
        pruned = self.row.arm == SPARSE
        size = f"{self.row.sparsity:.1%}" if pruned else f"width {self.row.width:g}"
        return f"{self.series} {size}"


def series_name(arm: str, scheme: str) -> str:
    """The arm, with the scheme where that is not the standard one.

    >>> series_name("large-sparse", "standard"), series_name("large-sparse", "global")
    ('large-sparse', 'large-sparse, global')
    """
    label = scheme_label(scheme)
    return f"{arm}, {label}" if label else arm


def cells(rows: Sequence[RunRow], metric: Metric) -> list[Cell]:
    """The cells without a variant, by bytes; those of equal bytes in the order of the rows."""
    groups = defaultdict(list)
    for row in rows:
        if row.chosen and not row.variant:
            groups[row.arm, row.scheme, row.point].append(row)
    found = [
        Cell(
            group[0],
            tuple(row.run for row in group),
            summary({row.seed: row.test[metric.name] for row in group}),
        )
        for group in groups.values()
    ]
    return sorted(found, key=lambda cell: cell.row.bytes)
