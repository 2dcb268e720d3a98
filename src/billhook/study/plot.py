"""The plot of a study: each metric over the bytes, and below it the difference of the arms."""

import math
from collections.abc import Sequence
from typing import Any

from billhook.study.comparison import LEVEL, Comparison
from billhook.study.grid import DENSE, SPARSE
from billhook.study.statistics import Interval

__all__ = ["plot_png"]

_COLOURS = {DENSE: "#b35806", SPARSE: "#2166ac"}
_NEITHER = "#777777"
_LEGEND = {
    "labelFontSize": 13,
    "title": None,
    "orient": "top",
    "symbolSize": 120,
    "symbolOpacity": 1,
}
_WIDTH, _TALL, _LOW = 380, 260, 190


def plot_png(metrics: Sequence[Sequence[Comparison]], title: str, subtitle: Sequence[str]) -> bytes:
    """A PNG with a column for each metric's comparisons."""
    import altair as alt
    import vl_convert

    columns = [_column(alt, each) for each in metrics]
    chart = (
        alt.hconcat(*columns, spacing=40)
        .properties(
            title=alt.TitleParams(title, subtitle=list(subtitle), anchor="start", offset=14),
            padding=16,
            background="white",
        )
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#eeeeee")
        .configure_legend(
            labelFontSize=13, title=None, orient="top", symbolSize=120, symbolOpacity=1
        )
        .configure_title(fontSize=17, subtitleFontSize=13, subtitleColor="#444444")
        .configure_view(stroke="#cccccc")
    )
    png: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=2)
    return png


def _column(alt: Any, comparisons: Sequence[Comparison]) -> Any:
    """A metric's scores above its differences; their colours mean different things."""
    parts = _scores(alt, comparisons), _differences(alt, comparisons)
    return alt.vconcat(*parts).resolve_scale(color="independent")


def _scores(alt: Any, comparisons: Sequence[Comparison]) -> Any:
    """Both arms' test metric over the bytes, with the intervals of their means."""
    metric = comparisons[0].metric
    unit = "%" if metric.scale == 100 else metric.unit
    records = [
        {"arm": arm, **_record(c, interval)}
        for c in comparisons
        for arm, interval in ((DENSE, c.dense), (SPARSE, c.sparse))
    ]
    colour = alt.Color(
        "arm:N", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    )
    base = alt.Chart(alt.Data(values=records)).encode(x=_bytes_axis(alt, comparisons), color=colour)
    axis = alt.Axis(title=f"test {metric.label} ({unit})")
    y = alt.Y("mean:Q", scale=alt.Scale(zero=False), axis=axis)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    points = base.mark_point(filled=True, size=65, opacity=1).encode(y=y)
    return (band + line + points).properties(width=_WIDTH, height=_TALL)


def _differences(alt: Any, comparisons: Sequence[Comparison]) -> Any:
    """Sparse minus dense with its interval, coloured by who wins."""
    metric = comparisons[0].metric
    records = [{"winner": c.winner or "undecided", **_record(c, c.difference)} for c in comparisons]
    names = [*_COLOURS, "undecided"]
    colour = alt.Color(
        "winner:N",
        scale=alt.Scale(domain=names, range=[*_COLOURS.values(), _NEITHER]),
        legend=None,
    )
    base = alt.Chart(alt.Data(values=records)).encode(x=_bytes_axis(alt, comparisons), color=colour)
    better = SPARSE if metric.higher_is_better else DENSE
    low = min(0.0, *(record["low"] for record in records))
    high = max(0.0, *(record["high"] for record in records))
    ticks = _ticks(low, high)
    axis = alt.Axis(
        title=[f"sparse minus dense ({metric.unit})", f"above 0: {better} ahead"],
        values=ticks,
        labelExpr="datum.value == 0 ? '0' : format(datum.value, '+~g')",
        labelOverlap=False,
    )
    step = min(abs(tick) for tick in ticks if tick)
    domain = [1.2 * low - step / 2, 1.2 * high + step / 2]
    scale = alt.Scale(type="symlog", constant=step, domain=domain, nice=False)
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    rule = base.mark_rule(strokeWidth=3).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high")
    points = base.mark_point(filled=True, size=65, opacity=1).encode(y=y)
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="#333333")
    zero = zero.encode(y=alt.Y("zero:Q", scale=scale, axis=axis))
    return (zero + rule + points).properties(width=_WIDTH, height=_LOW)


def _ticks(low: float, high: float) -> list[float]:
    """Zero, and on both sides 1, 2 or 5 times powers of ten over a factor of twenty."""
    extreme = max(-low, high)
    if extreme == 0.0:
        return [-1.0, 0.0, 1.0]
    top = math.floor(math.log10(extreme))
    sizes = [digit * 10.0**power for power in (top - 2, top - 1, top) for digit in (1, 2, 5)]
    sizes = [size for size in sizes if extreme / 20 <= size <= extreme]
    return [-s for s in reversed(sizes) if -s >= low] + [0.0] + [s for s in sizes if s <= high]


def _record(comparison: Comparison, interval: Interval) -> dict[str, Any]:
    shown = interval.scaled(comparison.metric.scale)
    return {
        "bytes": comparison.point,
        "mean": shown.mean,
        "low": shown.low,
        "high": shown.high,
    }


def _bytes_axis(alt: Any, comparisons: Sequence[Comparison]) -> Any:
    ends = [comparisons[0].point / 1.1, comparisons[-1].point * 1.1]
    return alt.X(
        "bytes:Q",
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=alt.Axis(
            title="bytes of the file, log scale",
            values=[c.point for c in comparisons],
            format=",",
            labelAngle=-35,
            labelOverlap=False,
        ),
    )


def interval_note(seeds: int) -> str:
    """What bands and bars show."""
    return (
        f"bands and bars: {LEVEL:.0%} t-intervals over {seeds} seeds; differences paired by seed, "
        "on a symmetric log scale, grey where undecided"
    )
