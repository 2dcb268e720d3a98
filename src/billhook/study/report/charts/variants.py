"""Charts of a study of tuning: a metric over what was varied of the pruning."""

from collections.abc import Sequence
from typing import Any

from billhook.study.analysis.cells import Cell
from billhook.study.analysis.variants import Variant
from billhook.study.report.charts.axes import (
    WIDTH,
    by_series,
    log_axis,
    score_axis,
    shown,
    tooltips,
)
from billhook.tasks.task import Metric

__all__ = ["over_frequency", "over_settings"]


def over_frequency(metric: Metric, found: Sequence[Variant], references: Sequence[Cell]) -> Any:
    """A metric over the steps between mask updates, the references as lines across."""
    import altair as alt

    records = [
        _record(metric, each) | {"frequency": float(each.settings["frequency"])} for each in found
    ]
    x_axis = log_axis("steps between mask updates", [record["frequency"] for record in records])
    return _drawn(alt, metric, records, references, alt.X("frequency:Q", **x_axis))


def over_settings(metric: Metric, found: Sequence[Variant], references: Sequence[Cell]) -> Any:
    """A metric for every schedule of a few, beside each other, with the same references."""
    import altair as alt

    records = [_record(metric, each) for each in found]
    order = [record["label"] for record in records]
    axis = alt.Axis(title=None, labelAngle=-40, labelLimit=200)
    return _drawn(alt, metric, records, references, alt.X("label:N", sort=order, axis=axis))


def _drawn(alt: Any, metric: Metric, records: Any, references: Sequence[Cell], x: Any) -> Any:
    """Means with intervals, and across the chart the means of the references."""
    axis, scale = score_axis(metric), alt.Scale(zero=False)
    lines = [
        {
            "series": cell.series,
            "label": cell.label,
            "seeds": cell.seeds,
            **shown(metric, cell.score),
        }
        for cell in references
    ]
    color = by_series(alt, [*records, *lines])["color"]
    tips = [alt.Tooltip("label:N", title="schedule or network"), *tooltips(metric)]
    across = (
        alt.Chart(alt.InlineData(values=lines))
        .mark_rule(strokeDash=[6, 4], strokeWidth=1.5)
        .encode(y=alt.Y("mean:Q", scale=scale, axis=axis), color=color, tooltip=tips)
    )
    base = alt.Chart(alt.InlineData(values=records)).encode(x=x, color=color, tooltip=tips)
    bars = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        y=alt.Y("mean:Q", scale=scale, axis=axis)
    )
    return (across + bars + points).properties(width=WIDTH, height=270)


def _record(metric: Metric, variant: Variant) -> dict[str, Any]:
    return {
        "series": variant.series,
        "label": variant.label,
        "seeds": len(variant.scores),
        **shown(metric, variant.score),
    }
