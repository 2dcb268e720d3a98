"""How far the large network can be pruned: a metric over the share of zeros."""

from collections.abc import Sequence
from typing import Any

from billhook.study.analysis.minimal_loss import Loss
from billhook.study.grid import LARGE, SPARSE
from billhook.study.report.charts.axes import (
    WIDTH,
    by_series,
    score_axis,
    shown,
    tooltips,
)

__all__ = ["over_sparsity"]


def over_sparsity(losses: Sequence[Loss], margin: float) -> Any:
    """The pruned network's mean over its sparsity, beside the large network left dense.

    The broken line is the ``margin`` worse than the dense mean: what stays above it (below, where
    lower is better) has lost no more than that.
    """
    import altair as alt

    metric, dense = losses[0].metric, losses[0].dense
    records = [
        {
            "series": SPARSE,
            "sparsity": loss.sparsity,
            "nonzero": round(loss.nonzero),
            "seeds": loss.seeds,
            **shown(metric, loss.sparse),
        }
        for loss in losses
    ]
    sign = -1.0 if metric.higher_is_better else 1.0
    bound = metric.scale * (dense.mean + sign * margin * abs(dense.mean))
    levels = [{"series": LARGE, "level": metric.scale * dense.mean}]
    margins = [{"series": LARGE, "level": bound}]
    axis = alt.Axis(title="zeros among the weights that are pruned", format=".0%")
    series = by_series(alt, [*records, *levels])
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X("sparsity:Q", scale=alt.Scale(zero=False), axis=axis),
        color=series["color"],
        tooltip=[
            alt.Tooltip("sparsity:Q", format=".1%"),
            alt.Tooltip("nonzero:Q", format=","),
            *tooltips(metric),
        ],
    )
    y_axis = score_axis(metric)
    y = alt.Y("mean:Q", scale=alt.Scale(zero=False), axis=y_axis)
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", axis=y_axis), y2="high:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=series["shape"])
    line = base.mark_line(strokeWidth=2).encode(y=y)
    drawn = [
        alt.Chart(alt.InlineData(values=values))
        .mark_rule(strokeDash=dash)
        .encode(y=alt.Y("level:Q", axis=y_axis), color=series["color"])
        for values, dash in ((levels, [1, 0]), (margins, [4, 3]))
    ]
    return alt.layer(*drawn, bars, line, points).properties(width=WIDTH, height=270)
