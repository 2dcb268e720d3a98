"""Accuracy against milliseconds."""

from collections.abc import Sequence
from typing import Any

from billhook.study.analysis.equal_latency import Timed
from billhook.study.report.charts.axes import (
    WIDTH,
    by_series,
    log_axis,
    score_axis,
    shown,
    tooltips,
)
from billhook.study.report.charts.over_bytes import means
from billhook.tasks.task import Metric

__all__ = ["over_latency"]


def over_latency(metric: Metric, found: Sequence[Timed]) -> Any:
    """A metric of every network over the time of one example, a line for each arm and form."""
    import altair as alt

    records: list[dict[str, Any]] = [
        {
            "series": each.series,
            "label": each.label,
            "by": each.form,
            "milliseconds": each.milliseconds,
            "seeds": len(each.scores),
            **shown(metric, each.score),
        }
        for each in found
    ]
    x_axis = log_axis("median latency of one example", [r["milliseconds"] for r in records], "ms")
    axis = score_axis(metric)
    forms = list(dict.fromkeys(record["by"] for record in records))
    scale, legend = alt.Scale(domain=forms), alt.Legend(columns=2)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X("milliseconds:Q", **x_axis),
        color=by_series(alt, records)["color"],
        tooltip=[
            alt.Tooltip("label:N", title="network"),
            alt.Tooltip("by:N", title="run by"),
            alt.Tooltip("milliseconds:Q", format=",.3~r"),
            *tooltips(metric),
        ],
    )
    dash = alt.StrokeDash("by:N", scale=scale, legend=legend)
    shape = alt.Shape("by:N", scale=scale, legend=legend)
    return means(alt, base, axis, shape, strokeDash=dash).properties(width=2 * WIDTH, height=270)
