"""The charts of a report, as Altair charts: plain records in, values shown on hovering."""

from collections.abc import Sequence
from typing import Any

from billhook.study.analysis.cells import Cell
from billhook.study.analysis.findings import Findings
from billhook.study.grid import DENSE, SPARSE
from billhook.study.published import PublishedTable
from billhook.study.report.charts.axes import (
    ARMS,
    UNDECIDED,
    WIDTH,
    ChartRows,
    by_series,
    log_axis,
    score_axis,
    shown,
    signed_axis,
    tooltips,
)
from billhook.tasks.task import Metric

__all__ = ["means", "over_bytes", "over_nonzeros", "over_steps", "published_points"]


def over_bytes(findings: Sequence[Findings]) -> Any:
    """A metric of every arm over the bytes of the file; below it the differences at equal bytes.

    ``findings`` are those of one metric, one per scheme.
    """
    import altair as alt

    metric, cells = findings[0].metric, findings[0].cells
    x_axis = log_axis("size of the file", [cell.row.bytes for cell in cells], "B")
    scores = _scores(metric, cells, "bytes", x_axis)
    compared = [c for each in findings for c in each.comparisons]
    parts = [scores, *([_differences(findings, x_axis)] if compared else [])]
    return alt.vconcat(*parts).resolve_scale(color="independent", shape="independent")


def over_nonzeros(metric: Metric, cells: Sequence[Cell]) -> Any:
    """A metric of every arm over the number of nonzero parameters."""
    x_axis = log_axis("nonzero parameters", [cell.row.nonzero for cell in cells])
    return _scores(metric, cells, "nonzero", x_axis)


def published_points(table: PublishedTable) -> Any:
    """The paper's own points over their nonzero parameters, one line per model size."""
    import altair as alt

    records = [
        {
            "model": point.model,
            "series": SPARSE if point.sparsity else DENSE,
            "sparsity": point.sparsity,
            "nonzero": point.nonzero,
            "value": point.metrics[table.metric],
        }
        for point in table.points
    ]
    nonzero = [point.nonzero for point in table.points]
    axis = alt.Axis(title=f"the paper: {table.metric} (Table {table.number})")
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("nonzero:Q", **log_axis("nonzero parameters", nonzero)),
            y=alt.Y("value:Q", scale=alt.Scale(zero=False), axis=axis),
            **by_series(alt, records),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("sparsity:Q", format=".1%"),
                alt.Tooltip("nonzero:Q", format=","),
                alt.Tooltip("value:Q", title=table.metric),
            ],
        )
        .properties(width=WIDTH, height=270)
    )


def _scores(metric: Metric, cells: Sequence[Cell], place: str, x_axis: dict[str, Any]) -> Any:
    """Means with their intervals, one line per arm."""
    import altair as alt

    records = [
        {
            "series": cell.series,
            "label": cell.label,
            "seeds": cell.seeds,
            "bytes": cell.row.bytes,
            "nonzero": cell.row.nonzero,
            **shown(metric, cell.score),
        }
        for cell in cells
    ]
    y_axis = score_axis(metric)
    series = by_series(alt, records)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X(f"{place}:Q", **x_axis),
        color=series["color"],
        tooltip=[
            alt.Tooltip("label:N", title="network"),
            alt.Tooltip("bytes:Q", format=","),
            alt.Tooltip("nonzero:Q", format=","),
            *tooltips(metric),
        ],
    )
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", axis=y_axis), y2="high:Q")
    scores = means(alt, base, y_axis, series["shape"])
    return (band + scores).properties(width=WIDTH, height=270)


def means(alt: Any, base: Any, axis: Any, shape: Any, **line: Any) -> Any:
    """Means as a line with points, and their intervals, wherever ``base`` places them."""
    y = alt.Y("mean:Q", scale=alt.Scale(zero=False), axis=axis)
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", axis=axis), y2="high:Q")
    lines = base.mark_line(strokeWidth=2).encode(y=y, **line)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape)
    return bars + lines + points


def _differences(findings: Sequence[Findings], x_axis: dict[str, Any]) -> Any:
    """Sparse minus dense with its interval, coloured by who wins."""
    import altair as alt

    metric = findings[0].metric
    records = [
        {
            "winner": c.difference.winner or UNDECIDED,
            "scheme": c.scheme,
            "bytes": c.point,
            "seeds": c.difference.seeds,
            "p": c.difference.p if c.difference.claimed else None,
            "place": c.point * 1.03 ** (i - (len(findings) - 1) / 2),  # side by side
            **shown(metric, c.difference.interval),
        }
        for i, each in enumerate(findings)
        for c in each.comparisons
    ]
    better = SPARSE if metric.higher_is_better else DENSE
    scale, axis = signed_axis(alt, metric, better, records)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X("place:Q", **x_axis),
        color=alt.Color("winner:N", scale=alt.Scale(domain=list(ARMS)), legend=None),
        tooltip=[
            alt.Tooltip("winner:N"),
            alt.Tooltip("scheme:N"),
            alt.Tooltip("bytes:Q", format=","),
            *tooltips(metric, signed=True),
            alt.Tooltip("p:Q", title="p (Holm)", format=".2g"),
        ],
    )
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    bars = base.mark_rule(strokeWidth=3).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high")
    shape = alt.Shape("scheme:N", legend=None)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape)
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3])
    zero = zero.encode(y=alt.Y("zero:Q", scale=scale, axis=axis))
    return (zero + bars + points).properties(width=WIDTH, height=180)


def over_steps(metric: Metric, records: ChartRows, start: str) -> Any:
    """Sparsity, learning rate and validation metric over the steps: the paper's figure 2.

    Args:
        records: series, size, step, sparsity, learning_rate and value, means over the seeds;
            those with an empty size are always shown.
        start: the size shown first; the others can be picked.
    """
    import altair as alt

    sizes = list(dict.fromkeys(record["size"] for record in records if record["size"]))
    picked = alt.param(
        "picked", value=start, bind=alt.binding_select(options=sizes, name="size of the file: ")
    )
    base = (
        alt.Chart(alt.InlineData(values=records))
        .transform_filter("datum.size == picked || datum.size == ''")
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(title="training step", format="~s", tickCount=8)),
            **by_series(alt, records),
            tooltip=[
                alt.Tooltip("series:N", title="network"),
                alt.Tooltip("step:Q", format=","),
                alt.Tooltip("sparsity:Q", format=".1%"),
                alt.Tooltip("learning_rate:Q", title="learning rate", format=".3g"),
                alt.Tooltip("value:Q", title=metric.label, format=f",.{metric.digits}f"),
            ],
        )
    )
    values = [record["value"] for record in records]
    wide = min(values) > 0 and max(values) > 20 * min(values)
    scale = alt.Scale(type="log" if wide else "linear", zero=False)
    panels = (
        ("sparsity", alt.Scale(), alt.Axis(title="sparsity", format="%", tickCount=4), 90),
        ("learning_rate", alt.Scale(), alt.Axis(title="learning rate", tickCount=4), 90),
        ("value", scale, score_axis(metric, "validation"), 240),
    )
    return alt.vconcat(
        *(
            base.mark_line(point={"size": 22}, strokeWidth=1.5)
            .encode(y=alt.Y(f"{field}:Q", scale=scale, axis=axis))
            .properties(width=WIDTH, height=height)
            for field, scale, axis, height in panels
        )
    ).add_params(picked)
