"""How charts look on a light and on a dark page, and as PNG and SVG."""

from typing import Any

__all__ = ["config", "png", "svg"]

_LIGHT = ["#b35806", "#2166ac", "#4d4d4d", "#8c6d00", "#8a8a8a", "#1b7837", "#762a83", "#c51b7d"]
_DARK = ["#f2a154", "#6db1f2", "#d0d0d0", "#e0c75a", "#8f8f8f", "#7fd08d", "#c79be0", "#f28cc0"]


def config(*, dark: bool) -> dict[str, Any]:
    """Vega-Lite's configuration; the background is the page's own when dark."""
    text, faint, grid = (
        ("#e4e6ea", "#a9afb8", "#343a42") if dark else ("#1c2024", "#555555", "#e6e6e6")
    )
    label = {"labelColor": text, "titleColor": text, "labelFontSize": 11, "titleFontSize": 12}
    return {
        "background": "transparent" if dark else "white",
        "font": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        "axis": {**label, "gridColor": grid, "domainColor": faint, "tickColor": faint},
        "legend": {
            **label,
            "orient": "top",
            "title": None,
            "symbolSize": 90,
            "labelLimit": 320,
            "symbolOpacity": 1,
            "symbolBaseFillColor": text,
            "symbolBaseStrokeColor": text,
        },
        "header": {**label, "labelFontSize": 12},
        "title": {"color": text, "subtitleColor": faint, "anchor": "start", "fontSize": 13},
        "view": {"stroke": grid},
        "range": {"category": _DARK if dark else _LIGHT},
        "rule": {"color": faint},
    }


def png(chart: Any) -> bytes:
    """A chart as a PNG on white, two pixels for each of the chart's."""
    import vl_convert

    data: bytes = vl_convert.vegalite_to_png(chart.to_dict(), config=config(dark=False), scale=2)
    return data


def svg(chart: Any) -> str:
    """A chart as an SVG on white."""
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(chart.to_dict(), config=config(dark=False))
    return text
