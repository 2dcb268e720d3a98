"""Axes, colours and hover texts that the charts of a report share."""

import math
from collections.abc import Sequence
from typing import Any

from billhook.study.analysis.statistics import Interval
from billhook.study.grid import DENSE, LARGE, LONGER, SPARSE
from billhook.tasks.task import Metric

__all__ = [
    "ARMS",
    "UNDECIDED",
    "WIDTH",
    "ChartRows",
    "by_series",
    "log_axis",
    "score_axis",
    "shown",
    "signed_axis",
    "titled",
    "tooltips",
]

#: What a chart shows, a mark each.
ChartRows = Sequence[dict[str, Any]]

WIDTH = 440
UNDECIDED = "undecided"
#: One colour and shape each, in this order, which further schemes follow.
ARMS = (DENSE, SPARSE, LARGE, LONGER, UNDECIDED)


def score_axis(metric: Metric, split: str = "test") -> Any:
    """The axis of a metric."""
    import altair as alt

    return alt.Axis(title=titled(f"{split} {metric.label}", metric.shown_in))


def titled(what: str, *notes: str) -> str:
    """What is shown, its unit and other notes in brackets, without those that are empty.

    >>> titled("perplexity", "", "lower is better")
    'perplexity (lower is better)'
    """
    inside = ", ".join(note for note in notes if note)
    return f"{what} ({inside})" if inside else what


def by_series(alt: Any, records: ChartRows) -> dict[str, Any]:
    """Colour and shape: the arms' own in their fixed order, then those of further schemes."""
    present = dict.fromkeys(record["series"] for record in records)
    domain = [*ARMS, *(name for name in present if name not in ARMS)]
    scale = alt.Scale(domain=domain)
    legend = alt.Legend(values=[name for name in domain if name in present], columns=2)
    return {
        "color": alt.Color("series:N", scale=scale, legend=legend),
        "shape": alt.Shape("series:N", scale=scale, legend=legend),
    }


def shown(metric: Metric, interval: Interval) -> dict[str, float]:
    """A mean and the ends of its interval, as they are drawn."""
    shown = interval.scaled(metric.scale)
    return {"mean": shown.mean, "low": shown.low, "high": shown.high}


def tooltips(metric: Metric, *, signed: bool = False) -> list[Any]:
    """Of the fields that :func:`shown` gives, and the seeds."""
    import altair as alt

    form = f"{'+' if signed else ','}.{metric.digits}f"
    title = titled("sparse minus dense", metric.unit) if signed else f"test {metric.label}"
    return [
        alt.Tooltip("mean:Q", title=title, format=form),
        alt.Tooltip("low:Q", title="from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
        alt.Tooltip("seeds:Q"),
    ]


def log_axis(title: str, values: Sequence[float], unit: str = "") -> dict[str, Any]:
    """Scale and axis for positive values, in thousands or millions where they are large."""
    import altair as alt

    power, prefix = max(
        (power, prefix)
        for power, prefix in ((0, ""), (3, "k"), (6, "M"), (9, "G"))
        if power == 0 or max(values) >= 10**power
    )
    ends = [min(values) / 1.15, max(values) * 1.15]
    shown = f"{prefix}{unit}, log scale" if prefix or unit else "log scale"
    return {
        "scale": alt.Scale(type="log", domain=ends, nice=False),
        "axis": alt.Axis(
            title=f"{title} ({shown})",
            labelExpr=f"format(datum.value / 1e{power}, '~r')",
            values=_log_ticks(*ends),
        ),
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, all of 1 to 9 where the ends are near each other."""
    digits = (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]


def signed_axis(alt: Any, metric: Metric, better: str, records: ChartRows) -> tuple[Any, Any]:
    """A symmetric logarithmic scale for differences, with zero and a few sizes on both sides."""
    low = min(0.0, *(record["low"] for record in records))
    high = max(0.0, *(record["high"] for record in records))
    ticks = _signed_ticks(low, high)
    axis = alt.Axis(
        title=[titled("sparse minus dense", metric.unit), f"above 0: {better} ahead"],
        values=ticks,
        labelExpr="datum.value == 0 ? '0' : format(datum.value, '+~g')",
        labelOverlap=False,
    )
    step = min(abs(tick) for tick in ticks if tick)
    domain = [1.2 * low - step / 2, 1.2 * high + step / 2]
    return alt.Scale(type="symlog", constant=step, domain=domain, nice=False), axis


def _signed_ticks(low: float, high: float) -> list[float]:
    """Zero, and on both sides 1, 2 or 5 times powers of ten over a factor of twenty."""
    extreme = max(-low, high)
    if extreme == 0.0:
        return [-1.0, 0.0, 1.0]
    top = math.floor(math.log10(extreme))
    sizes = [digit * 10.0**power for power in (top - 2, top - 1, top) for digit in (1, 2, 5)]
    sizes = [size for size in sizes if extreme / 20 <= size <= extreme]
    return [-s for s in reversed(sizes) if -s >= low] + [0.0] + [s for s in sizes if s <= high]
