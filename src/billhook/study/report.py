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
from billhook.study.family import family
from billhook.study.grid import DENSE, SPARSE
from billhook.study.plot import interval_note, plot_png
from billhook.study.rows import Row
from billhook.study.sheet import Sheet
from billhook.study.sizes import byte_split, shapes_of
from billhook.study.spec import Study
from billhook.study.statistics import Interval, resampling_factor
from billhook.study.store import Store, write_text
from billhook.study.verdict import headline, verdict

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
    comparisons = [compare(study, rows, metric) for metric in family(study.family).metrics]
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


def _split_sheet(report: Report) -> Sheet:
    """Where the bytes of every file go, and how many weights are trained for it."""
    rows = []
    for comparison in report.comparisons[0]:
        for arm in (DENSE, SPARSE):
            row = next(r for r in report.rows if (r.arm, r.point) == (arm, comparison.point))
            shapes = shapes_of(report.study.family, int(row.width))
            split = byte_split(shapes, row.sparsity)
            header = row.bytes - split.masks - split.values  # as written, by any release
            trained = sum(shape.numel() for shape in shapes.values())
            counts = row.bytes, header, split.masks, split.values, trained
            rows.append((arm, f"{row.sparsity:.2%}", *(f"{count:,}" for count in counts)))
    headings = "arm", "sparsity", "bytes", "header", "masks", "values", "weights trained"
    return Sheet("Where the bytes go", headings, tuple(rows))


def _conditions(report: Report) -> list[str]:
    """What a reader must know to weigh the numbers, in sentences."""
    study, comparisons = report.study, report.comparisons[0]
    recipe, data = study.training, study.data
    mismatch = max(row.point - row.bytes for row in report.rows)
    factor = resampling_factor(len(study.seeds), data.train, data.test)
    costs = [f"{_reference(report, c)}" for c in report.comparisons]
    return [
        f"Each of {len(study.seeds)} seeds draws its own split ({data.train} train, "
        f"{data.validation} validation, {data.test} test), initial weights and batches. The two "
        "arms of a seed share split and batches, so differences (sparse minus dense) are paired "
        "by seed; intervals are 95% t-intervals over the seeds, each size by itself.",
        f"A size is called won when its paired t-test holds at 5% for all {len(comparisons)} sizes "
        "of that metric together (Holm's correction), undecided otherwise.",
        f"Both arms: {recipe.steps} steps of {recipe.batch_size} examples, AdamW, cosine decay, "
        f"{len(recipe.learning_rates)} learning rates tried for every arm, size and seed, chosen "
        f"by that seed's validation {study.choose_by.replace('_', '-')}; the last weights count. "
        f"Chosen: {_chosen_rates(report.rows)}. "
        "Test data were used once, on the chosen networks as read back from their files.",
        "Bytes are those of the files that billhook.save wrote, header included; a sparse file is "
        f"never larger than its dense partner, and at most {mismatch} bytes smaller.",
        "Equal bytes and equal steps are not equal arithmetic: the large network costs more to "
        "train (last column of the table of bytes).",
        f"For reference, the large network left dense: {' and '.join(costs)}.",
        "The intervals speak of random splits of this one data set. Splits overlap; for a claim "
        "about fresh data of the same kind, the (conservative) correction of Nadeau and Bengio "
        f"(2003) would make every interval {factor:.1f} times as wide. Those that would then still "
        f"leave out zero: {'; '.join(_beyond(c, factor) for c in report.comparisons)}.",
    ]


def _beyond(comparisons: Sequence[Comparison], factor: float) -> str:
    """The sizes whose difference stays clear of zero when its interval is ``factor`` as wide."""
    sizes = [
        f"{c.point:,} bytes"
        for c in comparisons
        if abs(c.difference.mean) > factor * (c.difference.high - c.difference.mean)
    ]
    return f"{comparisons[0].metric.label} at {', '.join(sizes) if sizes else 'no size'}"


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
