"""Bytes or time saved at an equal metric: the curve of the dense networks, read across."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from billhook.study.analysis.comparison import CLAIM_SEEDS, Design, Scores, scores, summary
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = ["Reading", "between", "read", "read_across"]

#: Places, evenly over the logarithm of the bytes, at which the dense curve is read.
PLACES = 500


@dataclasses.dataclass(frozen=True)
class Reading:
    """How many times the cost of a sparse network a dense one needs for the same metric.

    ``cost`` is in bytes of the file, or in milliseconds of a call. ``factor`` is where the dense
    curve, straight lines over log(cost) between the mean scores of the small networks and the large
    one left dense, first is as good as the sparse mean. ``low``
    and ``high`` end the set of places at which the interval of the difference between the sparse
    network and the dense curve holds zero (the test inverted, as by Fieller). 0 and infinity stand
    for less than the ``smallest`` and more than the ``largest`` dense network measured; NaN where
    nothing is claimed.
    """

    cost: float
    seeds: int
    factor: float
    low: float
    high: float
    smallest: float
    largest: float

    @property
    def claimed(self) -> bool:
        """Whether there are seeds enough for an interval."""
        return self.seeds >= CLAIM_SEEDS


def read_across(
    rows: Sequence[RunRow], metric: Metric, design: Design, *, scheme: str
) -> list[Reading]:
    """A reading for every sparse file, smallest first; it takes two dense of shared seeds."""
    curve = _dense_curve(rows, metric)
    pruned = [r for r in rows if (r.arm, r.scheme, r.variant) == (SPARSE, scheme, "") and r.chosen]
    sizes = {row.point: row.bytes for row in sorted(pruned, key=lambda row: row.point)}
    if len(curve) < 2 or not set.intersection(*(set(each) for _, each in curve)):
        return []
    return [
        read(size, scores(rows, metric, SPARSE, point=point, scheme=scheme), curve, metric, design)
        for point, size in sizes.items()
    ]


def _dense_curve(rows: Sequence[RunRow], metric: Metric) -> list[tuple[float, Scores]]:
    """Bytes and scores of every dense network that was trained like the others, by bytes."""
    sizes = {(row.arm, row.point): row.bytes for row in rows if row.arm in (DENSE, LARGE)}
    cells: list[tuple[float, Scores]] = [
        (sizes[arm, point], scores(rows, metric, arm, point=point)) for arm, point in sizes
    ]
    return sorted((cell for cell in cells if cell[1]), key=lambda cell: cell[0])


def read(
    cost: float,
    sparse: Scores,
    curve: Sequence[tuple[float, Scores]],
    metric: Metric,
    design: Design,
) -> Reading:
    """Where a curve of dense networks by cost, two or more, is as good as a sparse network."""
    sign = 1.0 if metric.higher_is_better else -1.0
    places = [float(place) for place in np.geomspace(curve[0][0], curve[-1][0], PLACES) / cost]
    dense = [between(curve, place * cost) for place in places]
    leads = [sign * (summary(sparse).mean - summary(each).mean) for each in dense]
    factor = 0.0 if leads[0] < 0.0 else _first(places, [lead <= 0.0 for lead in leads])
    seeds = min(design.seeds(sparse, each) for each in dense)
    low = high = math.nan
    if seeds >= CLAIM_SEEDS:
        intervals = [design.difference(sparse, each).interval().scaled(sign) for each in dense]
        ahead = [interval.low > 0.0 for interval in intervals]
        behind = [interval.high < 0.0 for interval in intervals]
        low = min(_first(places, [not each for each in ahead]), places[-1]) if ahead[0] else 0.0
        high = _last(places, [not each for each in behind]) if behind[-1] else math.inf
    return Reading(cost, seeds, factor, low, high, places[0], places[-1])


def between(curve: Sequence[tuple[float, Scores]], place: float) -> Scores:
    """Each seed's scores on the straight line over log(cost) between the neighbouring ones."""
    for (low, worse), (high, better) in itertools.pairwise(curve):
        if place <= high or high == curve[-1][0]:
            share = math.log(place / low) / math.log(high / low)
            seeds = [seed for seed in worse if seed in better]
            return {seed: (1 - share) * worse[seed] + share * better[seed] for seed in seeds}
    raise AssertionError("a curve has two sizes or more")


def _first(places: Sequence[float], holds: Sequence[bool]) -> float:
    """The first place where it holds; infinity if it holds nowhere."""
    return next((float(p) for p, held in zip(places, holds, strict=True) if held), math.inf)


def _last(places: Sequence[float], holds: Sequence[bool]) -> float:
    """The last place where it holds; the first of all if it holds nowhere."""
    held = [float(p) for p, held in zip(places, holds, strict=True) if held]
    return held[-1] if held else float(places[0])
