"""The verdict in words: what the numbers support, and nothing beyond that."""

import itertools
import math
from collections.abc import Sequence

from billhook.study.analysis.comparison import Comparison, Difference, crossovers
from billhook.study.analysis.equal_metric import Reading
from billhook.study.analysis.findings import Findings
from billhook.study.analysis.minimal_loss import largest_at_minimal_loss
from billhook.study.analysis.statistics import LEVEL
from billhook.study.grid import DENSE, SPARSE, scheme_label

__all__ = ["advice", "at_point", "headline", "lead", "saved", "verdict"]

_NOTHING = "no size has runs of both arms to compare"
_DEMONSTRATION = "a demonstration, no interval claimed"


def headline(comparisons: Sequence[Comparison]) -> str:
    """One neutral line: at how many sizes each arm wins, or what the only size says.

    Such as "accuracy: large-sparse wins at 3 of 6 sizes, small-dense at 1, 2 undecided".
    """
    label, total = comparisons[0].difference.metric.label, len(comparisons)
    if total == 1:
        return f"{label}: {at_point(comparisons[0])}"
    if not any(c.difference.claimed for c in comparisons):
        first = sum(c.difference.ahead == SPARSE for c in comparisons)
        return f"{label}: {SPARSE} is ahead at {first} of {total} sizes ({_DEMONSTRATION})"
    winners = [c.difference.winner for c in comparisons]
    counts = [(arm, winners.count(arm)) for arm in (SPARSE, DENSE)]
    counts.sort(key=lambda entry: -entry[1])
    undecided = winners.count(None)
    (first_arm, most), (second_arm, fewer) = counts
    if most == 0:
        return f"{label}: undecided at each of {total} sizes"
    text = f"{label}: {first_arm} wins at {most} of {total} sizes, {second_arm} at {fewer}"
    return f"{text}, {undecided} undecided" if undecided else text


def verdict(findings: Findings) -> list[str]:
    """The headline, the declared contrast, every size, and what pruning costs and saves."""
    comparisons = findings.comparisons
    first = headline(comparisons) if comparisons else f"{findings.metric.label}: {_NOTHING}"
    lines = [f"{scheme_label(findings.scheme)} {first}".lstrip()]
    if comparisons:
        lines.append(advice(comparisons))
    if len(comparisons) > 1 and findings.contrast is not None:
        lines.append(
            f"at equal steps, the mean over log-bytes {_range(comparisons)}: "
            f"{lead(findings.contrast)}"
        )
    if findings.control_contrast is not None:
        lines.append(
            "at equal operations, the small dense networks trained as many as the large one, "
            f"{_range(findings.control)}: {lead(findings.control_contrast)}"
        )
        lines.append(advice(findings.control, " if a small network may train as long as the large"))
    if len(comparisons) > 1:  # of the only size the headline says all
        lines += map(at_point, comparisons)
    if len(findings.control) > 1:
        lines += (f"at equal operations {at_point(each)}" for each in findings.control)
    for low, high, place in crossovers(comparisons):
        lines.append(
            f"the mean difference changes sign between {low.point:,} and {high.point:,} bytes "
            f"(near {place:,.0f} by interpolation), from {low.difference.ahead} to "
            f"{high.difference.ahead}"
        )
    if findings.losses:
        lines.append(_minimal_loss(findings))
    return lines


def _range(comparisons: Sequence[Comparison]) -> str:
    first, last = comparisons[0].point, comparisons[-1].point
    return f"at {first:,} bytes" if first == last else f"from {first:,} to {last:,} bytes"


def advice(comparisons: Sequence[Comparison], condition: str = "") -> str:
    """What to do for a file of a size, sizes next to each other with the same answer together.

    Such as "what to do: for a file of 47,840 bytes train a small dense network (width 24); from
    79,720 to 168,048 bytes prune the large one (89.5% to 76.3% zeros)".
    """
    parts = []
    for winner, group in itertools.groupby(comparisons, key=_preferred):
        sizes = list(group)
        low, high = sizes[0], sizes[-1]
        where = f"for a file of {low.point:,} bytes" if low is high else f"{_range(sizes)}"
        if winner is None:
            what = "either will do, no difference is shown"
        elif winner == SPARSE:
            zeros = _ends(f"{low.sparsity:.1%}", f"{high.sparsity:.1%}")
            what = f"prune the large network ({zeros} zeros)"
        else:
            width = _ends(f"{low.width:g}", f"{high.width:g}")
            what = f"train a small dense network (width {width})"
        parts.append(f"{where} {what}")
    sure = "" if all(each.difference.claimed for each in comparisons) else ", by the means alone"
    return f"what to do{condition}{sure}: {'; '.join(parts)}"


def _preferred(comparison: Comparison) -> str | None:
    difference = comparison.difference
    return difference.winner if difference.claimed else difference.ahead


def _ends(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def at_point(comparison: Comparison) -> str:
    """One size in words.

    Such as "at 4,952 bytes large-sparse wins by 0.93 points (95% interval 0.41 to 1.45, 10 seeds)".
    """
    return f"at {comparison.point:,} bytes {lead(comparison.difference)}"


def saved(reading: Reading) -> str:
    """The factor of a reading with its interval, such as "2.10 (1.62 to beyond 2.90)"."""
    factor = _factor(reading.factor, reading)
    if not reading.claimed:
        return factor
    return f"{factor} ({_factor(reading.low, reading)} to {_factor(reading.high, reading)})"


def lead(difference: Difference) -> str:
    """Who is ahead and by how much, or that it is undecided."""
    metric, against = difference.metric, difference.against
    shown = difference.interval.scaled(metric.scale)
    size = metric.with_unit(f"{abs(shown.mean):.{metric.digits}f}")
    if not difference.claimed:
        ahead = difference.ahead
        words = "the arms are equal" if ahead is None else f"{ahead} is ahead by {size}"
        count = f"{difference.seeds} seed{'s' if difference.seeds != 1 else ''}"
        return f"{words} ({count}: {_DEMONSTRATION})"
    seeds = f"{LEVEL:.0%} interval {{}}, {difference.seeds} seeds"
    if difference.winner is None:
        mean = metric.with_unit(f"{shown.mean:+.{metric.digits}f}")
        signed = f"{shown.low:+.{metric.digits}f} to {shown.high:+.{metric.digits}f}"
        why = "" if shown.low <= 0 <= shown.high else " after Holm's correction"
        return f"undecided{why}: {SPARSE} minus {against} is {mean} ({seeds.format(signed)})"
    nearest, farthest = sorted((abs(shown.low), abs(shown.high)))
    ends = f"{nearest:.{metric.digits}f} to {farthest:.{metric.digits}f}"
    return f"{difference.winner} wins by {size} ({seeds.format(ends)})"


def _minimal_loss(findings: Findings) -> str:
    """The paper's headline: how many nonzeros fewer, at a loss within the margin."""
    margin = f"{findings.margin:.1%}".replace(".0%", "%")
    claimed = all(loss.claimed for loss in findings.losses)
    basis = "by its interval" if claimed else f"by its mean alone, {_DEMONSTRATION}"
    bound = f"at most {margin} worse than the large network left dense ({basis})"
    best = largest_at_minimal_loss(findings.losses)
    if best is None:
        verb = "is shown to be" if claimed else "is"
        return f"no sparsity from {findings.losses[0].sparsity:.1%} up {verb} {bound}"
    return (
        f"minimal loss: at {best.sparsity:.1%} sparsity, with {best.reduction:.1f} times fewer "
        f"nonzeros, still {bound}"
    )


def _factor(factor: float, reading: Reading) -> str:
    if factor == 0.0:
        return f"below {reading.smallest:.2f}"
    return f"beyond {reading.largest:.2f}" if math.isinf(factor) else f"{factor:.2f}"
