"""Charts that have a row or a mark for every network or tensor."""

from typing import Any

from billhook.study.report.charts.axes import WIDTH, ChartRows, log_axis

__all__ = ["dots", "stacked", "tensors"]


def tensors(records: ChartRows) -> Any:
    """Sparsity of every pruned tensor: a row per tensor, a column per size, a block per scheme.

    ``records``: scheme, size, tensor, sparsity, nonzero, entries; in the order to be shown.
    """
    import altair as alt

    order = {key: list(dict.fromkeys(r[key] for r in records)) for key in ("size", "tensor")}
    height, font = (11, 9) if len(order["tensor"]) > 30 else (18, 11)
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_rect()
        .encode(
            x=alt.X("size:O", sort=order["size"], axis=alt.Axis(title=None, labelAngle=-40)),
            y=alt.Y(
                "tensor:O",
                sort=order["tensor"],
                axis=alt.Axis(title=None, labelLimit=300, labelFontSize=font, labelOverlap=False),
            ),
            color=alt.Color(
                "sparsity:Q",
                scale=alt.Scale(domain=[0, 1]),
                legend=alt.Legend(format="%", title="sparsity"),
            ),
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


def dots(records: ChartRows, title: str, unit: str, kind: str) -> Any:
    """One number of several kinds for every network, on a logarithmic axis.

    ``records``: label, kind, value; in the order to be shown.
    """
    import altair as alt

    kinds = list(dict.fromkeys(record["kind"] for record in records))
    return (
        alt.Chart(alt.InlineData(values=records))
        .mark_point(filled=True, size=80, opacity=0.9)
        .encode(
            x=alt.X("value:Q", **log_axis(title, [r["value"] for r in records], unit)),
            y=_labels(alt, records),
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds)),
            shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds)),
            tooltip=_parts(alt, title, unit, kind),
        )
        .properties(width=WIDTH, height={"step": 22})
    )


def stacked(records: ChartRows, title: str, unit: str, kind: str) -> Any:
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
        .properties(width=WIDTH, height={"step": 22})
    )


def _parts(alt: Any, title: str, unit: str, kind: str) -> list[Any]:
    return [
        alt.Tooltip("label:N", title="network"),
        alt.Tooltip("kind:N", title=kind),
        alt.Tooltip("value:Q", title=f"{title} ({unit})", format=",.4~r"),
    ]


def _labels(alt: Any, records: ChartRows) -> Any:
    order = list(dict.fromkeys(record["label"] for record in records))
    return alt.Y("label:N", sort=order, axis=alt.Axis(title=None, labelLimit=260))
