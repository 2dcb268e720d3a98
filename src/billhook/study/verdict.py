"""What the numbers support, in words, and no more than that."""

from collections.abc import Sequence

from billhook.study.comparison import LEVEL, Comparison, crossovers
from billhook.study.grid import DENSE, SPARSE

__all__ = ["at_point", "headline", "verdict"]


def headline(comparisons: Sequence[Comparison]) -> str:
    """One neutral line: at how many sizes each arm wins.

    Such as "accuracy: large-sparse wins at 3 of 6 sizes, small-dense at 1, 2 undecided".
    """
    counts = [(arm, sum(c.winner == arm for c in comparisons)) for arm in (SPARSE, DENSE)]
    counts.sort(key=lambda entry: -entry[1])
    undecided = sum(c.winner is None for c in comparisons)
    (first, most), (second, fewer) = counts
    label, total = comparisons[0].metric.label, len(comparisons)
    if most == 0:
        return f"{label}: undecided at each of {total} sizes"
    text = f"{label}: {first} wins at {most} of {total} sizes, {second} at {fewer}"
    return f"{text}, {undecided} undecided" if undecided else text


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """The headline, a line for every size, and where the lead changes hands."""
    lines = [headline(comparisons), *map(at_point, comparisons)]
    found = crossovers(comparisons)
    for low, high, place in found:
        lines.append(
            f"the mean difference changes sign between {low.point:,} and {high.point:,} bytes "
            f"(near {place:,.0f} by interpolation), from {low.ahead} to {high.ahead}"
        )
    if not found:
        lines.append("the mean difference does not change sign between these sizes")
    return lines


def at_point(comparison: Comparison) -> str:
    """One size in words.

    Such as "at 4,952 bytes large-sparse wins by 0.93 points (95% interval 0.41 to 1.45, 10 seeds)".
    """
    metric, place = comparison.metric, f"at {comparison.point:,} bytes"
    difference = comparison.difference.scaled(metric.scale)
    low, high = difference.low, difference.high
    seeds = f"{LEVEL:.0%} interval {{}}, {comparison.seeds} seeds"
    if comparison.winner is None:
        signed = f"{low:+.{metric.digits}f} to {high:+.{metric.digits}f}"
        why = "" if low <= 0 <= high else " after Holm's correction"
        return (
            f"{place} undecided{why}: large-sparse minus small-dense is "
            f"{difference.mean:+.{metric.digits}f} {metric.unit} ({seeds.format(signed)})"
        )
    nearest, farthest = sorted((abs(low), abs(high)))
    size = f"{nearest:.{metric.digits}f} to {farthest:.{metric.digits}f}"
    return (
        f"{place} {comparison.winner} wins by {abs(difference.mean):.{metric.digits}f} "
        f"{metric.unit} ({seeds.format(size)})"
    )
