"""The two arms at every size of file: means, differences, who is ahead and how surely."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from billhook.errors import FormatError
from billhook.study.analysis.statistics import (
    Estimate,
    Interval,
    holm,
    log_weights,
    mean_of,
    paired,
    welch,
)
from billhook.study.grid import DENSE, SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = [
    "ALPHA",
    "CLAIM_SEEDS",
    "Comparison",
    "Design",
    "Difference",
    "Scores",
    "average",
    "compare",
    "contrast",
    "corrected",
    "crossovers",
    "difference_of",
    "scores",
    "summary",
]

#: The bound for p-values; the intervals of the same level are :data:`statistics.LEVEL`.
ALPHA = 0.05

#: With fewer seeds a study demonstrates: means and ranges are shown, nothing is claimed.
CLAIM_SEEDS = 5

Scores = Mapping[int, float]
"""A test metric by seed."""


@dataclasses.dataclass(frozen=True)
class Design:
    """Whether the arms of one seed vary together, which decides how they are compared.

    ``paired``: each seed draws its own split of the data, which both arms share; their difference
    is taken seed by seed. Otherwise all seeds share the data, a seed draws initial weights (of
    networks of other shapes) and the order of examples, and the arms count as independent: Welch.
    """

    paired: bool

    def difference(self, a: Scores, b: Scores) -> Estimate:
        """The mean of ``a - b``; where pairs count, of the seeds that both have."""
        if not self.paired:
            return welch(list(a.values()), list(b.values()))
        seeds = [seed for seed in a if seed in b]
        return paired([a[seed] for seed in seeds], [b[seed] for seed in seeds])

    def seeds(self, a: Scores, b: Scores) -> int:
        """How many seeds each side of a difference has, at least."""
        return len(set(a) & set(b)) if self.paired else min(len(a), len(b))


@dataclasses.dataclass(frozen=True)
class Difference:
    """Sparse minus dense on test data, in the metric's own unit.

    With fewer than :data:`CLAIM_SEEDS` seeds nothing is claimed: the interval has no width and
    ``p`` is NaN.
    """

    metric: Metric
    against: str  # the dense arm
    seeds: int
    interval: Interval
    p: float

    @property
    def claimed(self) -> bool:
        """Whether there are seeds enough for an interval."""
        return self.seeds >= CLAIM_SEEDS

    @property
    def ahead(self) -> str | None:
        """The arm with the better mean, whether or not that is decided; None if they are equal."""
        if self.interval.mean == 0.0:
            return None
        better = (self.interval.mean > 0) == self.metric.higher_is_better
        return SPARSE if better else self.against

    @property
    def winner(self) -> str | None:
        """The arm that is ahead if that is decided at 5%, else None."""
        return self.ahead if self.p < ALPHA else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Both arms at one size. ``difference.p`` is Holm's, for all sizes compared; ``p`` is not."""

    scheme: str
    point: int  # the bytes of the dense file
    width: float
    sparsity: float
    dense: Interval
    sparse: Interval
    difference: Difference
    p: float


def scores(
    rows: Sequence[RunRow], metric: Metric, arm: str, *, point: int | None = None, scheme: str = ""
) -> dict[int, float]:
    """The chosen runs' test metric by seed; ``scheme`` matters for the sparse arm alone.

    Raises:
        FormatError: a seed has neither a chosen run nor failed ones only.
    """
    group = [
        row
        for row in rows
        if (row.arm, row.scheme, row.variant) == (arm, scheme, "") and point in (None, row.point)
    ]
    chosen = {row.seed: row.test[metric.name] for row in group if row.chosen}
    failed = {row.seed for row in group if row.failure}
    missing = sorted({row.seed for row in group} - failed - set(chosen))
    if missing:
        raise FormatError(
            f"the rows of {arm} at {point} bytes lack a chosen one for seeds {missing}: restore "
            "rows.csv, or delete it and run the study again"
        )
    return dict(sorted(chosen.items()))


def summary(values: Scores) -> Interval:
    """The mean with its interval; of fewer than :data:`CLAIM_SEEDS` seeds with their range."""
    if len(values) >= CLAIM_SEEDS:
        return mean_of(list(values.values())).interval()
    mean = math.fsum(values.values()) / len(values)
    return Interval(mean, min(values.values()), max(values.values()))


def compare(
    rows: Sequence[RunRow], metric: Metric, design: Design, *, scheme: str, against: str = DENSE
) -> list[Comparison]:
    """A comparison for every size at which both arms have finished runs, from the smallest up."""
    found = []
    for point in _points(rows, scheme, against):
        dense, sparse = _pair(rows, metric, point, scheme, against)
        example = next(row for row in rows if (row.arm, row.point) == (against, point))
        pruned = next(r for r in rows if (r.arm, r.point, r.scheme) == (SPARSE, point, scheme))
        if not dense or not sparse:
            continue
        difference = difference_of(metric, design, against, sparse, dense)
        found.append(
            Comparison(
                scheme=scheme,
                point=point,
                width=example.width,
                sparsity=pruned.sparsity,
                dense=summary(dense),
                sparse=summary(sparse),
                difference=difference,
                p=difference.p,
            )
        )
    differences = corrected([each.difference for each in found])
    return [
        dataclasses.replace(each, difference=own)
        for each, own in zip(found, differences, strict=True)
    ]


def contrast(
    rows: Sequence[RunRow], metric: Metric, design: Design, *, scheme: str, against: str = DENSE
) -> Difference | None:
    """The one comparison declared beforehand: the mean difference over the logarithm of the bytes.

    Each seed's scores are averaged over the sizes, ``sum(w_k * score_k)`` with the weights of
    :func:`statistics.log_weights`, and the arms' averages compared over the seeds: the sizes of one
    seed need not be independent of each other. Seeds that lack a size are left out; None if no seed
    of an arm is left.
    """
    points = _points(rows, scheme, against)
    pairs = [_pair(rows, metric, point, scheme, against) for point in points]
    if not pairs:
        return None
    weights = log_weights(points)
    dense, sparse = (average([pair[arm] for pair in pairs], weights) for arm in (0, 1))
    if not dense or not sparse:
        return None
    return difference_of(metric, design, against, sparse, dense)


def crossovers(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Comparison, float]]:
    """Neighbouring sizes between which another arm takes the lead on average.

    With them, the bytes at which the straight line through the two mean differences, over the
    logarithm of the bytes, is zero: an estimate, with no interval of its own.
    """
    found = []
    for low, high in itertools.pairwise(comparisons):
        a, b = low.difference.interval.mean, high.difference.interval.mean
        if a * b < 0:
            place = math.log(low.point) + a / (a - b) * math.log(high.point / low.point)
            found.append((low, high, math.exp(place)))
    return found


def _points(rows: Sequence[RunRow], scheme: str, against: str) -> list[int]:
    """The sizes at which both arms were to be run, from the smallest up."""
    dense = {row.point for row in rows if row.arm == against}
    return sorted(
        {r.point for r in rows if (r.arm, r.scheme, r.variant) == (SPARSE, scheme, "")} & dense
    )


def _pair(
    rows: Sequence[RunRow], metric: Metric, point: int, scheme: str, against: str
) -> tuple[Scores, Scores]:
    dense = scores(rows, metric, against, point=point)
    return dense, scores(rows, metric, SPARSE, point=point, scheme=scheme)


def difference_of(
    metric: Metric, design: Design, against: str, sparse: Scores, dense: Scores
) -> Difference:
    """Sparse minus dense; without a claim where there are too few seeds."""
    seeds = design.seeds(sparse, dense)
    if seeds >= CLAIM_SEEDS:
        estimate = design.difference(sparse, dense)
        return Difference(metric, against, seeds, estimate.interval(), estimate.p_value)
    mean = summary(sparse).mean - summary(dense).mean
    return Difference(metric, against, seeds, Interval(mean, mean, mean), math.nan)


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same with Holm's p-values, for those together that claim anything."""
    adjusted = iter(holm([each.p for each in differences if each.claimed]))
    return [
        dataclasses.replace(each, p=next(adjusted)) if each.claimed else each
        for each in differences
    ]


def average(sizes: Sequence[Scores], weights: Sequence[float]) -> dict[int, float]:
    """Each seed's weighted mean over the sizes, of seeds that have them all."""
    seeds = [seed for seed in sizes[0] if all(seed in size for size in sizes)]
    return {
        seed: math.fsum(w * size[seed] for w, size in zip(weights, sizes, strict=True))
        for seed in seeds
    }
