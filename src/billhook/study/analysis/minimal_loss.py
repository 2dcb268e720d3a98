"""How far the large network can be pruned at minimal loss: the paper's headline, as a test."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from billhook.study.analysis.comparison import CLAIM_SEEDS, Design, Scores, scores, summary
from billhook.study.analysis.statistics import Interval
from billhook.study.grid import LARGE, SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = ["Loss", "largest_at_minimal_loss", "losses"]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The large network pruned to one sparsity, beside itself left dense.

    ``slack`` is what the margin leaves: with the margin m and the dense scores D, for a metric
    where higher is better ``mean(sparse) - mean(D - m * |D|)``, otherwise the same with the signs
    turned. Not inferior means that its whole interval lies above 0.
    """

    metric: Metric
    scheme: str
    point: int
    sparsity: float
    nonzero: float
    reduction: float  # parameters of the dense network / nonzeros of this one
    seeds: int
    dense: Interval
    sparse: Interval
    slack: Interval

    @property
    def claimed(self) -> bool:
        """Whether there are seeds enough for an interval."""
        return self.seeds >= CLAIM_SEEDS

    @property
    def within(self) -> bool:
        """Whether the loss is shown to be within the margin; means alone, if nothing is claimed."""
        return self.slack.low > 0.0


def losses(
    rows: Sequence[RunRow], metric: Metric, design: Design, margin: float, *, scheme: str
) -> list[Loss]:
    """One for every sparsity with finished runs, from the lowest up."""
    large = [row for row in rows if row.arm == LARGE and row.chosen]
    dense = scores(rows, metric, LARGE)
    pruned = [r for r in rows if (r.arm, r.scheme, r.variant) == (SPARSE, scheme, "") and r.chosen]
    found = []
    for point in {row.point: None for row in pruned} if dense else ():
        here = [row for row in pruned if row.point == point]
        sparse = scores(rows, metric, SPARSE, point=point, scheme=scheme)
        nonzero = math.fsum(row.nonzero for row in here) / len(here)
        found.append(
            Loss(
                metric=metric,
                scheme=scheme,
                point=point,
                sparsity=here[0].sparsity,
                nonzero=nonzero,
                reduction=large[0].nonzero / nonzero,
                seeds=design.seeds(sparse, dense),
                dense=summary(dense),
                sparse=summary(sparse),
                slack=_slack(metric, design, sparse, dense, margin),
            )
        )
    return sorted(found, key=lambda loss: loss.sparsity)


def largest_at_minimal_loss(found: Sequence[Loss]) -> Loss | None:
    """The last of the unbroken run of sparsities, from the lowest up, that are within the margin.

    Tested in this fixed order and stopped at the first failure, each at its full level, so no
    correction is needed. Source: Maurer, Hothorn & Lehmacher 1995.
    """
    unbroken = list(itertools.takewhile(lambda loss: loss.within, found))
    return unbroken[-1] if unbroken else None


def _slack(
    metric: Metric, design: Design, sparse: Scores, dense: Scores, margin: float
) -> Interval:
    sign = 1.0 if metric.higher_is_better else -1.0
    ours = {seed: sign * value for seed, value in sparse.items()}
    bound = {seed: sign * value - margin * abs(value) for seed, value in dense.items()}
    if design.seeds(ours, bound) >= CLAIM_SEEDS:
        return design.difference(ours, bound).interval()
    mean = summary(ours).mean - summary(bound).mean
    return Interval(mean, mean, mean)
