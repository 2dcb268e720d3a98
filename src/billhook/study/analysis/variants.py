"""A study of tuning: what the variants of the pruning did to a metric, and whether they differ."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

from billhook.study.analysis.cells import series_name
from billhook.study.analysis.comparison import ALPHA, CLAIM_SEEDS, Design, Scores, summary
from billhook.study.analysis.statistics import Estimate, Interval, holm, same_means, spread
from billhook.study.grid import SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

__all__ = ["Variant", "against_own", "variants", "what_mattered"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One schedule of the large pruned network at one size, with its scores by seed.

    ``settings`` are what differs from the recipe's ``[pruning]``, as text; none for its own.
    """

    settings: dict[str, str]
    scheme: str
    point: int
    sparsity: float
    scores: Scores

    @property
    def label(self) -> str:
        """Such as "begin=0.1, end=0.2"."""
        return ", ".join(f"{k}={v}" for k, v in self.settings.items()) or "the recipe's own"

    @property
    def series(self) -> str:
        """The arm, with the scheme where that is not the standard one."""
        return series_name(SPARSE, self.scheme)

    @property
    def factor(self) -> str:
        """What is varied, such as "begin and end"."""
        return " and ".join(self.settings)

    @property
    def score(self) -> Interval:
        """The mean over the seeds with its interval."""
        return summary(self.scores)


def variants(rows: Sequence[RunRow], metric: Metric) -> list[Variant]:
    """Every variant and, where there are some, the recipe's own schedule; in the study's order."""
    groups: dict[tuple[str, int, str], list[RunRow]] = defaultdict(list)
    for row in rows:
        if row.chosen and row.arm == SPARSE:
            groups[row.scheme, row.point, row.variant].append(row)
    varied = {(scheme, point) for scheme, point, variant in groups if variant}
    return [
        Variant(
            settings=dict(part.split("=", 1) for part in variant.split(",") if part),
            scheme=scheme,
            point=point,
            sparsity=group[0].sparsity,
            scores={row.seed: row.test[metric.name] for row in group},
        )
        for (scheme, point, variant), group in groups.items()
        if (scheme, point) in varied
    ]


def against_own(found: Sequence[Variant]) -> Iterator[tuple[Variant, Interval | None, float]]:
    """Each variant's mean less that of the recipe's own pruning at the same size, and its p-value.

    Differences are taken seed by seed: the networks of one seed have the same initial weights and
    see the same examples in the same order. The p-values are Holm's for the variants of one size
    and scheme. The recipe's own, and what has too few seeds to say, have no interval.
    """
    for place in dict.fromkeys((each.scheme, each.point) for each in found):
        here = [each for each in found if (each.scheme, each.point) == place]
        own = next((each for each in here if not each.settings), None)
        estimates = [None if own in (None, each) else _seed_by_seed(each, own) for each in here]
        adjusted = iter(holm([each.p_value for each in estimates if each is not None]))
        for variant, estimate in zip(here, estimates, strict=True):
            if estimate is None:
                yield variant, None, 1.0
            else:
                yield variant, estimate.interval(), next(adjusted)


def _seed_by_seed(variant: Variant, own: Variant) -> Estimate | None:
    """The mean of ``variant - own`` over the seeds of both; None with too few of them."""
    design = Design(paired=True)
    if design.seeds(variant.scores, own.scores) < CLAIM_SEEDS:
        return None
    return design.difference(variant.scores, own.scores)


def what_mattered(found: Sequence[Variant], metric: Metric, design: Design) -> list[list[str]]:
    """For every size and scheme a headline and one sentence per factor: the effect of its settings.

    The recipe's own schedule is a setting of every factor. The p-values, of an analysis of variance
    each, are Holm's for the factors of one headline.
    """
    words = []
    for scheme, point in dict.fromkeys((each.scheme, each.point) for each in found):
        here = [each for each in found if (each.scheme, each.point) == (scheme, point)]
        factors = {
            factor: [each for each in here if each.factor in ("", factor)]
            for factor in dict.fromkeys(each.factor for each in here if each.settings)
        }
        p_values = {factor: _p_value(each, design) for factor, each in factors.items()}
        tested = {factor: p for factor, p in p_values.items() if p is not None}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        words.append(
            [
                f"{metric.label} over the pruning schedule, {here[0].sparsity:.0%} sparse in "
                f"{point:,} bytes, {scheme} scheme",
                *(_sentence(f, each, metric, corrected.get(f)) for f, each in factors.items()),
            ]
        )
    return words


def _p_value(found: Sequence[Variant], design: Design) -> float | None:
    """Could all means be equal? None with too few seeds, or settings, to say."""
    shared = sorted(set.intersection(*(set(each.scores) for each in found)))
    seeds = len(shared) if design.paired else min(len(each.scores) for each in found)
    if seeds < CLAIM_SEEDS or len(found) < 2:
        return None
    if design.paired:
        return same_means([[v.scores[seed] for seed in shared] for v in found], paired=True)
    return same_means([list(each.scores.values()) for each in found])


def _sentence(factor: str, found: Sequence[Variant], metric: Metric, p: float | None) -> str:
    means = [each.score.mean for each in found]
    reach = metric.scale * (max(means) - min(means))
    scatter = metric.scale * spread([list(each.scores.values()) for each in found])
    size = metric.with_unit(f"{reach:.{metric.digits}f}")
    sentence = (
        f"{factor}: the means of {len(found)} settings range over {size}, the seeds of one "
        f"setting scatter by {scatter:.{metric.digits}f} (standard deviation)"
    )
    if p is None:
        return f"{sentence}; too few seeds to say more"
    decided = "they differ" if p < ALPHA else "that they differ is not shown"
    return f"{sentence}; {decided} (p = {p:.2g}, analysis of variance, Holm's correction)"
