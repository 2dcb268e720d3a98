"""The report of a finished study: verdict, tables, plot, and the comparisons as CSV."""

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from billhook.atomic import replacing
from billhook.errors import StateError
from billhook.study.comparison import Comparison, compare, reference
from billhook.study.grid import DENSE, SPARSE
from billhook.study.plot import interval_note, plot_png
from billhook.study.rows import Row
from billhook.study.sheet import Sheet
from billhook.study.spec import Study
from billhook.study.statistics import Interval
from billhook.study.store import Store, write_text
from billhook.study.verdict import headline, verdict
from billhook.tasks.task import Metric

__all__ = ["Report", "load_report", "write_report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a finished study has to say; ``comparisons`` has a list for each metric."""

    study: Study
    provenance: dict[str, str]
    rows: list[Row]
    comparisons: list[list[Comparison]]

    def print(self, console: Console) -> None:
        """Verdict and tables for a terminal."""
        for comparisons in self.comparisons:
            console.print(_comparison_sheet(comparisons).rich())
        console.print(_split_sheet(self).rich())
        for line in _conditions(self):
            console.print(f"[dim]{line}[/dim]", highlight=False)
        for comparisons in self.comparisons:
            first, *rest = verdict(comparisons)
            console.print(f"\n[bold]{first[0].upper()}{first[1:]}.[/bold]", highlight=False)
            for line in rest:
                console.print(f"  {line}", highlight=False)

    def markdown(self) -> str:
        """The same as a page."""
        parts = [f"# Study {self.study.name}: large-sparse against small-dense at equal bytes"]
        for comparisons in self.comparisons:
            first, *rest = verdict(comparisons)
            bullets = "\n".join(f"- {line}" for line in rest)
            parts.append(f"**{first[0].upper()}{first[1:]}.**\n\n{bullets}")
        parts.append("![Both arms over the bytes of the file, and their difference](plot.png)")
        for sheet in [*map(_comparison_sheet, self.comparisons), _split_sheet(self)]:
            parts.append(f"## {sheet.title}\n\n{sheet.markdown()}")
        conditions = "\n".join(f"- {line}" for line in _conditions(self))
        parts.append(f"## How to read this\n\n{conditions}")
        facts = "\n".join(f"- {name}: {value}" for name, value in self.provenance.items())
        command = f"billhook study run {self.study.name}"
        parts.append(
            f"## Origin\n\n- command: `{command}`\n{facts}\n"
            "- study.json holds the whole configuration, rows.csv every trial, "
            "comparison.csv the tables above with all digits"
        )
        return "\n\n".join(parts) + "\n"


def load_report(store: Store) -> Report:
    """The report of a finished study, from its rows alone.

    Raises:
        StateError: the study is not finished.
    """
    study, rows = store.study(), store.rows()
    if rows is None:
        raise StateError(
            f"the study in {store.folder} is not finished: `billhook study run` continues it"
        )
    comparisons = [compare(study, rows, metric) for metric in _reported(study, rows)]
    return Report(study, store.provenance(), rows, comparisons)


def write_report(report: Report, store: Store) -> None:
    """Write comparison.csv, plot.png and, when all else is there, report.md."""
    seeds = report.comparisons[0][0].seeds
    title = f"{report.study.name}, {headline(report.comparisons[0])}"
    subtitle = [
        *(headline(comparisons) for comparisons in report.comparisons[1:]),
        interval_note(seeds),
        "a win holds for all sizes of a metric together (Holm's correction, 5%)",
    ]
    write_text(store.folder / "comparison.csv", _comparison_csv(report.comparisons))
    with replacing(store.folder / "plot.png") as plot:
        plot.write(plot_png(report.comparisons, title, subtitle))
    write_text(store.folder / "report.md", report.markdown())


def _comparison_sheet(comparisons: Sequence[Comparison]) -> Sheet:
    metric = comparisons[0].metric
    unit = "%" if metric.scale == 100 else metric.unit
    better = "higher" if metric.higher_is_better else "lower"
    return Sheet(
        f"Test {metric.label} ({unit}, {better} is better)",
        ("bytes", DENSE, SPARSE, "difference, 95% interval", "p (Holm)", "wins"),
        tuple(
            (
                f"{c.point:,}",
                _mean(c, c.dense),
                _mean(c, c.sparse),
                _interval(c),
                f"{c.p_holm:.2g}",
                c.winner or "undecided",
            )
            for c in comparisons
        ),
    )


def _mean(comparison: Comparison, interval: Interval) -> str:
    return f"{comparison.metric.scale * interval.mean:.{comparison.metric.digits}f}"


def _interval(comparison: Comparison) -> str:
    digits = comparison.metric.digits
    shown = comparison.difference.scaled(comparison.metric.scale)
    return f"{shown.mean:+.{digits}f} ({shown.low:+.{digits}f} to {shown.high:+.{digits}f})"


def _reported(study: Study, rows: Sequence[Row]) -> list[Metric]:
    """The study's metric first, then the others that were measured on test data."""
    measured = {name for row in rows for name in row.test}
    metrics = [metric for metric in study.metrics if metric.name in measured]
    return sorted(metrics, key=lambda metric: metric.name != study.metric)


def _split_sheet(report: Report) -> Sheet:
    """What every file takes in each coding, and how many weights are trained for it."""
    rows = []
    for comparison in report.comparisons[0]:
        for arm in (DENSE, SPARSE):
            row = next(r for r in report.rows if (r.arm, r.point) == (arm, comparison.point))
            codings = row.bytes_dense, row.bytes_bitmask, row.bytes_relative_index
            counts = row.bytes, *codings, row.bytes_entropy, row.parameters
            rows.append((arm, f"{row.sparsity:.2%}", *(f"{count:,}" for count in counts)))
    codings_shown = "dense", "bit-mask", "relative index", "entropy"
    headings = "arm", "sparsity", "bytes", *codings_shown, "weights trained"
    return Sheet("Bytes of the files, and in each coding", headings, tuple(rows))


def _conditions(report: Report) -> list[str]:
    """What a reader must know to weigh the numbers, in sentences."""
    study, comparisons = report.study, report.comparisons[0]
    training = study.recipe.training
    mismatch = max(row.point - row.bytes for row in report.rows if row.arm in (DENSE, SPARSE))
    costs = [f"{_reference(report, c)}" for c in report.comparisons]
    length = f"{training.steps} steps" if training.steps else f"{training.epochs:g} epochs"
    tried = len(study.learning_rates) * max(1, len(study.dropouts))
    return [
        f"Data: {study.found}. Each of {len(study.seeds)} seeds draws its own initial weights and "
        "batches; the two arms of a seed share their batches, so differences (sparse minus dense) "
        "are paired by seed; intervals are 95% t-intervals over the seeds, each size by itself.",
        f"A size is called won when its paired t-test holds at 5% for all {len(comparisons)} sizes "
        "of that metric together (Holm's correction), undecided otherwise.",
        f"Both arms: {length} in batches of {training.batch_size}, {study.recipe.optimizer.kind}, "
        f"{tried} settings tried for every arm, size and seed, chosen by that seed's validation "
        f"{study.choose_by.replace('_', '-')}; the last weights count. "
        f"Chosen: {_chosen_rates(report.rows)}. "
        "Test data were used once, on the chosen networks as read back from their files.",
        "Bytes are those of the files that billhook.save wrote, header included; a sparse file "
        f"is at most {mismatch} bytes smaller than its dense partner.",
        "Equal bytes and equal steps are not equal arithmetic: the large network costs more to "
        "train (last column of the table of bytes).",
        f"For reference, the large network left dense: {' and '.join(costs)}.",
    ]


def _chosen_rates(rows: Sequence[Row]) -> str:
    """How often each learning rate was chosen; one at the edge of those tried shows here."""
    parts = []
    for arm in (DENSE, SPARSE):
        counts = Counter(row.learning_rate for row in rows if row.chosen and row.arm == arm)
        times = ", ".join(f"{rate:g} {counts[rate]} times" for rate in sorted(counts))
        parts.append(f"{arm} {times}")
    return "; ".join(parts)


def _reference(report: Report, comparisons: Sequence[Comparison]) -> str:
    metric = comparisons[0].metric
    size, score = reference(report.study, report.rows, metric)
    shown = score.scaled(metric.scale)
    digits = metric.digits
    return (
        f"{metric.label} {shown.mean:.{digits}f} ({shown.low:.{digits}f} to "
        f"{shown.high:.{digits}f}) in {size:,} bytes"
    )


def _comparison_csv(all_comparisons: Sequence[Sequence[Comparison]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    intervals = [f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high")]
    writer.writerow(["metric", "bytes", "width", "sparsity", "seeds", *intervals, *_DECISION])
    for comparison in (c for comparisons in all_comparisons for c in comparisons):
        c = comparison
        numbers = [v for name in _INTERVALS for v in dataclasses.astuple(getattr(c, name))]
        decision = c.p, c.p_holm, c.winner or "undecided"
        writer.writerow([c.metric.name, c.point, c.width, c.sparsity, c.seeds, *numbers, *decision])
    return text.getvalue()


_INTERVALS = "dense", "sparse", "difference"
_DECISION = "p", "p_holm", "winner"
