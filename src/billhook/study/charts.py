"""The charts of a report, as Altair charts: plain records in, values shown on hovering."""

import math
from collections.abc import Sequence
from typing import Any

from billhook.study.cells import Cell
from billhook.study.findings import Findings
from billhook.study.grid import DENSE, LARGE, LONGER, SPARSE
from billhook.study.published import PublishedTable
from billhook.study.statistics import Interval
from billhook.tasks.task import Metric

__all__ = [
    "dots",
    "over_bytes",
    "over_nonzeros",
    "over_steps",
    "published_points",
    "stacked",
    "tensors",
]

Records = Sequence[dict[str, Any]]

_WIDTH = 440
_UNDECIDED = "undecided"
#: One colour and shape each, in this order, which further schemes follow.
_ARMS = (DENSE, SPARSE, LARGE, LONGER, _UNDECIDED)


def over_bytes(findings: Sequence[Findings]) -> Any:
    """A metric of every arm over the bytes of the file; below it the differences at equal bytes.

    ``findings`` are those of one metric, one a scheme.
    """
    import altair as alt

    metric, cells = findings[0].metric, findings[0].cells
    x_axis = _log_axis("size of the file", [cell.row.bytes for cell in cells], "B")
    scores = _scores(metric, cells, "bytes", x_axis)
    compared = [c for each in findings for c in each.comparisons]
    parts = [scores, *([_differences(findings, x_axis)] if compared else [])]
    return alt.vconcat(*parts).resolve_scale(color="independent", shape="independent")


def over_nonzeros(metric: Metric, cells: Sequence[Cell]) -> Any:
    """A metric of every arm over the number of nonzero parameters."""
    x_axis = _log_axis("nonzero parameters", [cell.row.nonzero for cell in cells])
    return _scores(metric, cells, "nonzero", x_axis)


def published_points(table: PublishedTable) -> Any:
    """The paper's own points over their nonzero parameters, a line a model size."""
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
    axis = alt.Axis(title=f"the paper: {table.metric}, {table.data} (Table {table.number})")
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("nonzero:Q", **_log_axis("nonzero parameters", nonzero)),
            y=alt.Y("value:Q", scale=alt.Scale(zero=False), axis=axis),
            **_by_series(alt, records),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("sparsity:Q", format=".1%"),
                alt.Tooltip("nonzero:Q", format=","),
                alt.Tooltip("value:Q", title=table.metric),
            ],
        )
        .properties(width=_WIDTH, height=270)
    )


def _scores(metric: Metric, cells: Sequence[Cell], place: str, x_axis: dict[str, Any]) -> Any:
    """Means with their intervals, a line an arm."""
    import altair as alt

    records = [
        {
            "series": cell.series,
            "label": cell.label,
            "seeds": cell.seeds,
            "bytes": cell.row.bytes,
            "nonzero": cell.row.nonzero,
            **_shown(metric, cell.score),
        }
        for cell in cells
    ]
    y_axis = alt.Axis(title=f"test {metric.label} ({_unit_of(metric)})")
    series = _by_series(alt, records)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X(f"{place}:Q", **x_axis),
        color=series["color"],
        tooltip=[
            alt.Tooltip("label:N", title="network"),
            alt.Tooltip("bytes:Q", format=","),
            alt.Tooltip("nonzero:Q", format=","),
            *_tooltips(metric),
        ],
    )
    y = alt.Y("mean:Q", scale=alt.Scale(zero=False), axis=y_axis)
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", axis=y_axis), y2="high:Q")
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", axis=y_axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=series["shape"])
    return (band + bars + line + points).properties(width=_WIDTH, height=270)


def _differences(findings: Sequence[Findings], x_axis: dict[str, Any]) -> Any:
    """Sparse minus dense with its interval, coloured by who wins."""
    import altair as alt

    metric = findings[0].metric
    records = [
        {
            "winner": c.difference.winner or _UNDECIDED,
            "scheme": c.scheme,
            "bytes": c.point,
            "seeds": c.difference.seeds,
            "p": c.difference.p if c.difference.claimed else None,
            "place": c.point * 1.03 ** (i - (len(findings) - 1) / 2),  # side by side
            **_shown(metric, c.difference.interval),
        }
        for i, each in enumerate(findings)
        for c in each.comparisons
    ]
    better = SPARSE if metric.higher_is_better else DENSE
    scale, axis = _signed_axis(alt, metric, better, records)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        x=alt.X("place:Q", **x_axis),
        color=alt.Color("winner:N", scale=alt.Scale(domain=list(_ARMS)), legend=None),
        tooltip=[
            alt.Tooltip("winner:N"),
            alt.Tooltip("scheme:N"),
            alt.Tooltip("bytes:Q", format=","),
            *_tooltips(metric, signed=True),
            alt.Tooltip("p:Q", title="p (Holm)", format=".2g"),
        ],
    )
    y = alt.Y("mean:Q", scale=scale, axis=axis)
    bars = base.mark_rule(strokeWidth=3).encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high")
    shape = alt.Shape("scheme:N", legend=None)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape)
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3])
    zero = zero.encode(y=alt.Y("zero:Q", scale=scale, axis=axis))
    return (zero + bars + points).properties(width=_WIDTH, height=180)


def over_steps(metric: Metric, records: Records, start: str) -> Any:
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
            **_by_series(alt, records),
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
    title = f"validation {metric.label} ({_unit_of(metric)})"
    panels = (
        ("sparsity", alt.Scale(), alt.Axis(title="sparsity", format="%", tickCount=4), 90),
        ("learning_rate", alt.Scale(), alt.Axis(title="learning rate", tickCount=4), 90),
        ("value", scale, alt.Axis(title=title), 240),
    )
    return alt.vconcat(
        *(
            base.mark_line(point={"size": 22}, strokeWidth=1.5)
            .encode(y=alt.Y(f"{field}:Q", scale=scale, axis=axis))
            .properties(width=2 * _WIDTH, height=height)
            for field, scale, axis, height in panels
        )
    ).add_params(picked)


def tensors(records: Records) -> Any:
    """Sparsity of every pruned tensor: a row a tensor, a column a size, a block a scheme.

    ``records``: scheme, size, tensor, sparsity, nonzero, entries; in the order to be shown.
    """
    import altair as alt

    order = {key: list(dict.fromkeys(r[key] for r in records)) for key in ("size", "tensor")}
    height = 11 if len(order["tensor"]) > 30 else 18
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_rect()
        .encode(
            x=alt.X("size:O", sort=order["size"], axis=alt.Axis(title=None, labelAngle=-40)),
            y=alt.Y("tensor:O", sort=order["tensor"], axis=alt.Axis(title=None, labelLimit=300)),
            color=alt.Color("sparsity:Q", legend=alt.Legend(format="%", title="sparsity")),
            column=alt.Column("scheme:N", sort=None, header=alt.Header(title=None)),
            tooltip=[
                alt.Tooltip("tensor:N"),
                alt.Tooltip("size:N"),
                alt.Tooltip("sparsity:Q", format=".2%"),
                alt.Tooltip("nonzero:Q", format=",.0f"),
                alt.Tooltip("entries:Q", format=",.0f"),
            ],
        )
        .properties(width={"step": 52}, height={"step": height})
    )


def dots(records: Records, title: str, unit: str, kind: str) -> Any:
    """One number of several kinds for every network, on a logarithmic axis.

    ``records``: label, kind, value; in the order to be shown.
    """
    import altair as alt

    kinds = list(dict.fromkeys(record["kind"] for record in records))
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_point(filled=True, size=80, opacity=0.9)
        .encode(
            x=alt.X("value:Q", **_log_axis(title, [r["value"] for r in records], unit)),
            y=_labels(alt, records),
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds)),
            shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds)),
            tooltip=_parts(alt, title, unit, kind),
        )
        .properties(width=_WIDTH, height={"step": 22})
    )


def stacked(records: Records, title: str, unit: str, kind: str) -> Any:
    """Parts that add up, for every network; ``records`` as of :func:`dots`."""
    import altair as alt

    kinds = list(dict.fromkeys(record["kind"] for record in records))
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_bar()
        .encode(
            x=alt.X("value:Q", axis=alt.Axis(title=f"{title} ({unit})", format="~s")),
            y=_labels(alt, records),
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds)),
            tooltip=_parts(alt, title, unit, kind),
        )
        .properties(width=_WIDTH, height={"step": 22})
    )


def _parts(alt: Any, title: str, unit: str, kind: str) -> list[Any]:
    return [
        alt.Tooltip("label:N", title="network"),
        alt.Tooltip("kind:N", title=kind),
        alt.Tooltip("value:Q", title=f"{title} ({unit})", format=",.4~r"),
    ]


def _labels(alt: Any, records: Records) -> Any:
    order = list(dict.fromkeys(record["label"] for record in records))
    return alt.Y("label:N", sort=order, axis=alt.Axis(title=None, labelLimit=260))


def _by_series(alt: Any, records: Records) -> dict[str, Any]:
    """Colour and shape: the arms' own in their fixed order, then those of further schemes."""
    present = dict.fromkeys(record["series"] for record in records)
    domain = [*_ARMS, *(name for name in present if name not in _ARMS)]
    scale = alt.Scale(domain=domain)
    legend = alt.Legend(values=[name for name in domain if name in present], columns=2)
    return {
        "color": alt.Color("series:N", scale=scale, legend=legend),
        "shape": alt.Shape("series:N", scale=scale, legend=legend),
    }


def _shown(metric: Metric, interval: Interval) -> dict[str, float]:
    shown = interval.scaled(metric.scale)
    return {"mean": shown.mean, "low": shown.low, "high": shown.high}


def _tooltips(metric: Metric, *, signed: bool = False) -> list[Any]:
    import altair as alt

    form = f"{'+' if signed else ','}.{metric.digits}f"
    title = f"sparse minus dense ({metric.unit})" if signed else f"test {metric.label}"
    return [
        alt.Tooltip("mean:Q", title=title, format=form),
        alt.Tooltip("low:Q", title="from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
        alt.Tooltip("seeds:Q"),
    ]


def _unit_of(metric: Metric) -> str:
    return "%" if metric.scale == 100 else metric.unit


def _log_axis(title: str, values: Sequence[float], unit: str = "") -> dict[str, Any]:
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


def _signed_axis(alt: Any, metric: Metric, better: str, records: Records) -> tuple[Any, Any]:
    """A symmetric logarithmic scale for differences, with zero and a few sizes on both sides."""
    low = min(0.0, *(record["low"] for record in records))
    high = max(0.0, *(record["high"] for record in records))
    ticks = _signed_ticks(low, high)
    axis = alt.Axis(
        title=[f"sparse minus dense ({metric.unit})", f"above 0: {better} ahead"],
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
