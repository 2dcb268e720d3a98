"""The two arms at every size of file: means, paired differences, who is ahead and how surely."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from billhook.errors import FormatError
from billhook.study.family import Metric
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.rows import Row
from billhook.study.spec import Study
from billhook.study.statistics import Interval, holm, paired_p_value, t_interval

__all__ = ["ALPHA", "LEVEL", "Comparison", "compare", "crossovers", "reference"]

#: The level of all intervals, and the matching bound for adjusted p-values.
LEVEL = 0.95
ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Both arms at one size, on test data, in the metric's own unit.

    ``difference`` is sparse minus dense, paired by seed: the two arms of a seed share their split
    and the order of their examples. ``p_holm`` is adjusted for all sizes of the study.
    """

    metric: Metric
    point: int  # the bytes of the dense file
    width: float
    sparsity: float
    seeds: int
    dense: Interval
    sparse: Interval
    difference: Interval
    p: float
    p_holm: float

    @property
    def ahead(self) -> str | None:
        """The arm with the better mean, whether or not that is decided; None if they are equal."""
        if self.difference.mean == 0.0:
            return None
        return SPARSE if (self.difference.mean > 0) == self.metric.higher_is_better else DENSE

    @property
    def winner(self) -> str | None:
        """The arm that is ahead, if that holds at 95% for all sizes together (Holm), else None."""
        return self.ahead if self.p_holm < ALPHA else None


def compare(study: Study, rows: Sequence[Row], metric: Metric) -> list[Comparison]:
    """A comparison for every size, from the smallest up.

    Raises:
        FormatError: the rows are not all that the study needs.
    """
    points = sorted({row.point for row in rows if row.arm == DENSE})
    pairs = [(_by_seed(study, rows, DENSE, p), _by_seed(study, rows, SPARSE, p)) for p in points]
    scores = [[[row.test[metric.name] for row in arm] for arm in pair] for pair in pairs]
    differences = [[b - a for a, b in zip(*pair, strict=True)] for pair in scores]
    p_values = [paired_p_value(values) for values in differences]
    return [
        Comparison(
            metric=metric,
            point=point,
            width=dense[0].width,
            sparsity=sparse[0].sparsity,
            seeds=len(dense),
            dense=t_interval(scores[i][0], LEVEL),
            sparse=t_interval(scores[i][1], LEVEL),
            difference=t_interval(differences[i], LEVEL),
            p=p_values[i],
            p_holm=adjusted,
        )
        for i, (point, (dense, sparse), adjusted) in enumerate(
            zip(points, pairs, holm(p_values), strict=True)
        )
    ]


def reference(study: Study, rows: Sequence[Row], metric: Metric) -> tuple[int, Interval]:
    """Bytes and score of the large network left dense, trained as the pruned one was."""
    large = [row for row in rows if row.arm == LARGE]
    if not large:
        raise FormatError(f"no rows of {LARGE!r}: restore rows.csv, or run the study again")
    chosen = _by_seed(study, rows, LARGE, large[0].point)
    return large[0].bytes, t_interval([row.test[metric.name] for row in chosen], LEVEL)


def crossovers(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Comparison, float]]:
    """Neighbouring sizes between which another arm takes the lead on average.

    With them, the bytes at which the straight line through the two mean differences, over the
    logarithm of the bytes, is zero: an estimate, with no interval of its own.
    """
    found = []
    for low, high in itertools.pairwise(comparisons):
        a, b = low.difference.mean, high.difference.mean
        if a * b < 0:
            place = math.log(low.point) + a / (a - b) * math.log(high.point / low.point)
            found.append((low, high, math.exp(place)))
    return found


def _by_seed(study: Study, rows: Sequence[Row], arm: str, point: int) -> list[Row]:
    """The chosen row of each seed, in the study's order of seeds."""
    chosen = {row.seed: row for row in rows if row.chosen and (row.arm, row.point) == (arm, point)}
    if set(chosen) != set(study.seeds):
        missing = sorted(set(study.seeds) - set(chosen))
        raise FormatError(
            f"the rows of {arm} at {point} bytes lack a chosen one for seeds {missing}: restore "
            "rows.csv, or delete it and run the study again"
        )
    return [chosen[seed] for seed in study.seeds]
