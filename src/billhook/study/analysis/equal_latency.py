"""The arms at equal latency: each sparse network beside what dense ones score in its time."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

from billhook.study.analysis.cells import series_name
from billhook.study.analysis.comparison import (
    Design,
    Difference,
    Scores,
    average,
    corrected,
    difference_of,
    summary,
)
from billhook.study.analysis.equal_metric import Reading, between, read
from billhook.study.analysis.statistics import Interval, log_weights
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.records.latency import FP32, INT8, Timing
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = ["FASTEST", "WAYS", "AtLatency", "EqualLatency", "Timed", "equal_latency", "timed"]

#: By which forms the networks are compared: all by one of billhook's, or each by its fastest.
FASTEST = "the fastest form of each"
WAYS = (FP32, INT8, FASTEST)

_Place = tuple[str, str, str, int]


@dataclasses.dataclass(frozen=True)
class Timed:
    """An arm at one size, run by one form: the median over the seeds of its milliseconds, and the
    test metric of what the form computes. ``row`` is the first seed's."""

    row: RunRow
    form: str
    milliseconds: float
    scores: Scores

    @property
    def series(self) -> str:
        """The arm with scheme and variant, where those are not the study's own."""
        name = series_name(self.row.arm, self.row.scheme)
        return f"{name}, {self.row.variant}" if self.row.variant else name

    @property
    def label(self) -> str:
        """Series with sparsity or width: "large-sparse 90.0%"."""
        pruned = self.row.arm == SPARSE
        size = f"{self.row.sparsity:.1%}" if pruned else f"width {self.row.width:g}"
        return f"{self.series} {size}"

    @property
    def score(self) -> Interval:
        """The mean over the seeds with its interval."""
        return summary(self.scores)


@dataclasses.dataclass(frozen=True)
class AtLatency:
    """A sparse network and what the dense ones score in the same time.

    ``dense`` and ``difference`` are None where no dense network is as fast. ``difference.p`` is
    Holm's, for all networks of the comparison.
    """

    sparse: Timed
    dense: Interval | None
    difference: Difference | None
    reading: Reading | None


@dataclasses.dataclass(frozen=True)
class EqualLatency:
    """The sparse networks of one scheme and variant, from the fastest one up, one way of running.

    ``contrast`` is the mean difference over log(milliseconds), None with fewer than two networks.
    """

    way: str
    against: str
    networks: list[AtLatency]
    contrast: Difference | None


def timed(rows: Sequence[RunRow], timings: Sequence[Timing], metric: Metric) -> list[Timed]:
    """Every chosen arm and size by every form that ran it; in the order of the rows.

    A form that has numbers of its own has the scores of the seeds that it ran; of others, which
    compute what was trained, every seed's scores count, whichever seeds were timed.
    """
    chosen = {row.run: row for row in rows if row.chosen}
    seeds: dict[_Place, list[RunRow]] = defaultdict(list)
    for row in chosen.values():
        seeds[_place(row)].append(row)
    groups: dict[tuple[_Place, str], list[Timing]] = defaultdict(list)
    for each in timings:
        if each.run in chosen and each.milliseconds is not None:
            groups[_place(chosen[each.run]), each.form].append(each)
    found = []
    for (place, form), group in groups.items():
        scores = {row.seed: row.test[metric.name] for row in seeds[place]}
        if any(each.test for each in group):
            scores = {chosen[each.run].seed: each.test[metric.name] for each in group}
        time = statistics.median(each.milliseconds or 0.0 for each in group)
        found.append(Timed(seeds[place][0], form, time, scores))
    return found


def equal_latency(
    found: Sequence[Timed], metric: Metric, design: Design, against: str = DENSE
) -> list[EqualLatency]:
    """Each way for each scheme and variant of the sparse arm, where dense networks were timed."""
    compared = []
    for way in WAYS:
        here = _by(way, found)
        curve = _curve([each for each in here if each.row.arm in (against, LARGE)])
        if not curve or not any(each.row.arm == against for each in here):
            continue
        sparse = [each for each in here if each.row.arm == SPARSE]
        for kind in dict.fromkeys((each.row.scheme, each.row.variant) for each in sparse):
            own = [each for each in sparse if (each.row.scheme, each.row.variant) == kind]
            own.sort(key=lambda each: each.milliseconds)
            compared.append(_compared((way, against), own, curve, metric, design))
    return compared


def _place(row: RunRow) -> _Place:
    """Arm, scheme, variant and size: what the seeds have in common."""
    return row.arm, row.scheme, row.variant, row.point


def _by(way: str, found: Sequence[Timed]) -> list[Timed]:
    """The networks as this way runs them."""
    if way != FASTEST:
        return [each for each in found if each.form == way]
    best: dict[_Place, Timed] = {}
    for each in found:
        key = _place(each.row)
        if key not in best or each.milliseconds < best[key].milliseconds:
            best[key] = each
    return list(best.values())


def _curve(dense: Sequence[Timed]) -> list[tuple[float, Scores]]:
    """Milliseconds and scores, from the fastest up, of networks than which no wider is faster."""
    curve: list[tuple[float, Scores]] = []
    fastest = math.inf
    for each in sorted(dense, key=lambda each: (-each.row.width, each.milliseconds)):
        if each.milliseconds < fastest:
            fastest = each.milliseconds
            curve.append((each.milliseconds, each.scores))
    return curve[::-1]


def _compared(
    named: tuple[str, str],
    sparse: Sequence[Timed],
    curve: Sequence[tuple[float, Scores]],
    metric: Metric,
    design: Design,
) -> EqualLatency:
    way, against = named
    networks, pairs = [], []
    for each in sparse:
        dense = _at(curve, each.milliseconds)
        several = len(curve) > 1 and set.intersection(*(set(scores) for _, scores in curve))
        networks.append(
            AtLatency(
                sparse=each,
                dense=summary(dense) if dense else None,
                difference=difference_of(metric, design, against, each.scores, dense)
                if dense
                else None,
                reading=read(each.milliseconds, each.scores, curve, metric, design)
                if several
                else None,
            )
        )
        if dense:
            pairs.append((each, dense))
    contrast = None
    if len({each.milliseconds for each, _ in pairs}) > 1:
        weights = log_weights([each.milliseconds for each, _ in pairs])
        ours = average([each.scores for each, _ in pairs], weights)
        theirs = average([dense for _, dense in pairs], weights)
        if ours and theirs:
            contrast = difference_of(metric, design, against, ours, theirs)
    return EqualLatency(way, against, _corrected(networks), contrast)


def _at(curve: Sequence[tuple[float, Scores]], milliseconds: float) -> Scores:
    """What dense networks score in a time: between two of them by interpolation over log(ms),
    beyond the slowest what that one does, and nothing where none is as fast."""
    (fastest, _), (slowest, last) = curve[0], curve[-1]
    if milliseconds < fastest:
        return {}
    return last if milliseconds >= slowest else between(curve, milliseconds)


def _corrected(networks: Sequence[AtLatency]) -> list[AtLatency]:
    """With Holm's p-values."""
    adjusted = iter(corrected([each.difference for each in networks if each.difference]))
    return [
        dataclasses.replace(each, difference=next(adjusted)) if each.difference else each
        for each in networks
    ]
