"""A report as text in a terminal, and as files: Markdown, page, plots, CSV."""

import csv
import dataclasses
import io

from rich.console import Console

from billhook.atomic import write_bytes, write_text
from billhook.study.records.store import Store
from billhook.study.report.charts.over_bytes import over_bytes
from billhook.study.report.charts.over_latency import over_latency
from billhook.study.report.charts.theme import png, svg
from billhook.study.report.notes import notes
from billhook.study.report.page import page
from billhook.study.report.report import StudyReport
from billhook.study.report.sheet import escaped

__all__ = ["FILES", "markdown", "print_report", "write_report"]

#: What :func:`write_report` writes, the last one when all else is there; with latencies also
#: milliseconds.png.
FILES = "comparison.csv", "plot.png", "plot.svg", "report.html", "report.md"


def print_report(report: StudyReport, console: Console) -> None:
    """Tables and verdict for a terminal."""
    for sheet in report.sheets:
        console.print(sheet)
    for line in notes(report):
        console.print(line, style="dim", highlight=False, markup=False)
    if report.partial:
        console.print(f"\n{report.status}", style="bold", highlight=False)
    for first, *rest in report.verdicts:
        console.print(f"\n{first[0].upper()}{first[1:]}.", style="bold", highlight=False)
        for line in rest:
            console.print(f"  {line}", highlight=False, markup=False)


def markdown(report: StudyReport) -> str:
    """The report as Markdown, with plot.png."""
    parts = [f"# Study {report.study.name}: large-sparse against small-dense at equal bytes"]
    parts += [f"**{report.status}**"] if report.partial else []
    for number, (first, *rest) in enumerate(report.verdicts):
        parts.append(f"**{escaped(first[0].upper() + first[1:])}.**")
        if number == 0:
            parts.append("![Both arms over the bytes of the file, and their difference](plot.png)")
        parts.append("\n".join(f"- {escaped(line)}" for line in rest))
    if report.timed:
        parts.append("![Every network over the milliseconds of one example](milliseconds.png)")
    parts += [f"## {escaped(sheet.title)}\n\n{sheet.markdown()}" for sheet in report.sheets]
    parts.append(
        "## How to read this\n\n" + "\n".join(f"- {escaped(line)}" for line in notes(report))
    )
    facts = "\n".join(
        f"- {escaped(name)}: {escaped(value)}" for name, value in report.provenance.items()
    )
    parts.append(
        f"## Origin\n\n{facts}\n"
        "- study.json holds the whole configuration, rows.csv every trial, comparison.csv the "
        "comparisons with all digits; report.html is this report with interactive plots"
    )
    return "\n\n".join(parts) + "\n"


def write_report(report: StudyReport, store: Store) -> None:
    """Write :data:`FILES` into the folder of the study."""
    plot = over_bytes(report.findings[0])
    write_text(store.folder / "comparison.csv", _comparison_csv(report))
    write_bytes(store.folder / "plot.png", png(plot))
    write_text(store.folder / "plot.svg", svg(plot))
    if report.timed:
        chart = over_latency(report.metric, report.timed)
        write_bytes(store.folder / "milliseconds.png", png(chart))
    write_text(store.folder / "report.html", page(report, store.folder))
    write_text(store.folder / "report.md", markdown(report))


def _comparison_csv(report: StudyReport) -> str:
    """Every comparison with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high")]
    writer.writerow([*_PLACE, *ends, *_DECISION])
    for each in (each for findings in report.findings for each in findings):
        for c in (*each.comparisons, *each.control):
            lead = c.difference
            place = each.metric.name, c.scheme, lead.against, c.point, c.width, c.sparsity
            intervals = c.dense, c.sparse, lead.interval
            numbers = [value for interval in intervals for value in dataclasses.astuple(interval)]
            decision = c.p, lead.p, (lead.winner or "undecided") if lead.claimed else "no claim"
            writer.writerow([*place, lead.seeds, *numbers, *decision])
    return text.getvalue()


_PLACE = "metric", "scheme", "against", "bytes", "width", "sparsity", "seeds"
_INTERVALS = "dense", "sparse", "difference"
_DECISION = "p", "p_holm", "winner"
