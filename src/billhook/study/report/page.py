"""The report as one HTML page: interactive charts, tables, raw rows; it needs no network.

The page's policy (Content-Security-Policy) lets nothing load and no script run but the one whose
hash it names, so text from a hostile results folder stays text.
"""

import base64
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from billhook.study.analysis.cells import Cell, series_name
from billhook.study.analysis.energy import SOURCE, energy
from billhook.study.analysis.variants import variants
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.report.charts.networks import dots, stacked, tensors
from billhook.study.report.charts.over_bytes import (
    over_bytes,
    over_nonzeros,
    over_steps,
    published_points,
)
from billhook.study.report.charts.over_latency import over_latency
from billhook.study.report.charts.over_sparsity import over_sparsity
from billhook.study.report.charts.theme import config
from billhook.study.report.charts.variants import over_frequency, over_settings
from billhook.study.report.glossary import GLOSSARY
from billhook.study.report.latency_sheets import conditions
from billhook.study.report.notes import notes
from billhook.study.report.report import StudyReport
from billhook.study.report.sheets import CODINGS, NANOJOULES
from billhook.tasks.task import Metric

__all__ = ["page"]

#: Offered for download as they are.
_FILES = (
    "rows.csv",
    "comparison.csv",
    "curves.csv",
    "layers.csv",
    "latency.csv",
    "values.csv",
    "study.json",
)

#: Above this sparsity at some size a tensor counts as pruned; a bias may hold a zero by chance.
_PRUNED = 0.01


def page(report: StudyReport, folder: Path) -> str:
    """The HTML of a report; files of its ``folder`` are embedded for download."""
    import jinja2

    sections = _sections(report)
    script = _script()
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _resource("page.html.jinja")
    )
    return template.render(
        report=report,
        notes=notes(report),
        glossary=GLOSSARY,
        sections=sections,
        downloads=[(n, _uri((folder / n).read_bytes())) for n in _FILES if (folder / n).exists()],
        uri=lambda text: _uri(text.encode()),
        style=_resource("page.css"),
        script=script,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_embedded(
            {
                "charts": {chart.name: chart.spec for each in sections for chart in each.charts},
                "themes": {"light": config(dark=False), "dark": config(dark=True)},
            }
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Chart:
    name: str
    spec: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Section:
    """A heading, a sentence below it, and charts beside each other."""

    title: str
    text: str
    charts: list[_Chart]


_Drawn = tuple[str, str, list[Any]]
"""A section's title, text and charts, none where the folder lacks the data."""


def _sections(report: StudyReport) -> list[_Section]:
    """Those for which the folder has data."""
    return [
        _Section(title, text, [_Chart(f"chart-{i}-{j}", c.to_dict()) for j, c in enumerate(charts)])
        for i, (title, text, charts) in enumerate([*_of_results(report), *_of_networks(report)])
        if charts
    ]


def _of_results(report: StudyReport) -> list[_Drawn]:
    """How good the networks are."""
    first = report.findings[0][0]
    metric = first.metric
    return [
        (
            "At equal bytes",
            "Above: the mean of every arm over the size of its file. Below: sparse minus dense at "
            "each size, grey where undecided.",
            [over_bytes(findings) for findings in report.findings],
        ),
        (
            "Accuracy against milliseconds",
            f"Of one example: {conditions(report.latency)}. In each form of billhook every layer "
            "runs sparse or dense, whichever is faster. Forms in 8 bits of others have the metric "
            "of fp32, which favours them.",
            [over_latency(metric, report.timed)] if report.timed else [],
        ),
        (
            "How far can the large network be pruned?",
            "Its mean over the share of zeros, beside itself left dense; the broken line is "
            f"{report.study.margin:.0%} worse than that.",
            [
                over_sparsity(findings[0].losses, report.study.margin)
                for findings in report.findings
                if findings[0].losses
            ],
        ),
        (
            "Over the nonzero parameters",
            "As the paper plots it"
            + (", whose own points are shown for comparison." if report.published else "."),
            [over_nonzeros(metric, first.cells), *_published(report)],
        ),
        (
            "Over what was varied of the pruning",
            "The large network, each schedule over its seeds; broken lines: the dense networks.",
            _variants(report, first.cells, metric),
        ),
        (
            "While training",
            "Means over the seeds of the chosen runs, on validation data (the paper's figure 2).",
            _curves(report, report.study.watched if metric.test_only else metric),
        ),
    ]


def _of_networks(report: StudyReport) -> list[_Drawn]:
    """What the networks look like, and what they cost."""
    first = report.findings[0][0]
    return [
        (
            "Sparsity of every layer",
            "Pruned tensors, at each size; means over the seeds of the chosen runs.",
            _layers(report),
        ),
        (
            "Bytes in every coding",
            "Of the same networks; where a tensor is smaller dense it is counted so.",
            [dots(_codings(first.cells), "size of the file", "B", "coding")],
        ),
        (
            "Energy of one inference: a model, not measured",
            f"{SOURCE}. Weights are read from DRAM once, activations cost nothing.",
            [stacked(_energy(first.cells), "energy", "uJ", "for")],
        ),
    ]


def _published(report: StudyReport) -> list[Any]:
    table = report.published
    return [] if table is None else [published_points(table)]


def _variants(report: StudyReport, found: Sequence[Cell], metric: Metric) -> list[Any]:
    """Two charts for every size and scheme that has variants."""
    charts = []
    every = variants(report.rows, metric)
    for scheme, point in dict.fromkeys((each.scheme, each.point) for each in every):
        here = [each for each in every if (each.scheme, each.point) == (scheme, point)]
        dense = [
            c for c in found if c.row.arm == LARGE or (c.row.arm, c.row.point) == (DENSE, point)
        ]
        frequencies = [each for each in here if each.factor == "frequency"]
        if frequencies:
            charts.append(over_frequency(metric, frequencies, dense))
        charts.append(over_settings(metric, [e for e in here if e not in frequencies], dense))
    return charts


def _curves(report: StudyReport, metric: Metric) -> list[Any]:
    """Means over the seeds of each chosen configuration, step by step."""
    if not report.curves:
        return []
    place = {row.run: row for row in report.rows if row.chosen and not row.variant}
    groups = defaultdict(list)
    for line in report.curves:
        if (row := place.get(line["run"])) is not None:
            groups[row.arm, row.scheme, row.point, int(line["step"])].append(line)
    records: list[dict[str, Any]] = [
        {
            "series": series_name(arm, scheme),
            "size": "" if arm == LARGE else f"{point:,} bytes",
            "step": step,
            "sparsity": _mean_of(lines, "sparsity"),
            "learning_rate": _mean_of(lines, "learning_rate"),
            "value": metric.scale * _mean_of(lines, metric.name),
        }
        for (arm, scheme, point, step), lines in sorted(groups.items(), key=lambda g: g[0][2:])
    ]
    sizes = [record["size"] for record in records if record["size"]]
    return [over_steps(metric, records, sizes[0])] if sizes else []


def _layers(report: StudyReport) -> list[Any]:
    """The tensors that are sparse at any size."""
    place = {r.run: r for r in report.rows if r.chosen and not r.variant and r.arm == SPARSE}
    groups = defaultdict(list)
    for line in report.layers:
        if (row := place.get(line["run"])) is not None:
            groups[row.scheme, row.sparsity, line["tensor"]].append(line)
    records: list[dict[str, Any]] = [
        {
            "scheme": scheme,
            "size": f"{sparsity:.1%}",
            "tensor": tensor,
            "nonzero": _mean_of(lines, "nonzero"),
            "entries": int(lines[0]["size"]),
            "sparsity": 1 - _mean_of(lines, "nonzero") / max(1, int(lines[0]["size"])),
        }
        for (scheme, sparsity, tensor), lines in groups.items()
    ]
    pruned = {record["tensor"] for record in records if record["sparsity"] > _PRUNED}
    shown = [record for record in records if record["tensor"] in pruned]
    return [tensors(shown)] if shown else []


def _codings(found: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        {"label": cell.label, "kind": name, "value": getattr(cell.row, f"bytes_{field}")}
        for cell in found
        for field, name in CODINGS.items()
    ]


def _energy(found: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        {"label": cell.label, "kind": kind, "value": value / NANOJOULES}
        for cell in found
        for kind, value in dataclasses.asdict(energy(cell.row)).items()
    ]


def _mean_of(lines: Sequence[dict[str, str]], column: str) -> float:
    return math.fsum(float(line[column]) for line in lines) / len(lines)


@functools.cache
def _script() -> str:
    """Vega and the page's own few lines, as one script."""
    import vl_convert

    script: str = vl_convert.javascript_bundle(_resource("page.js"))
    return script


def _resource(name: str) -> str:
    return (importlib.resources.files("billhook.study.report") / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _uri(content: bytes) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content).decode()}"
