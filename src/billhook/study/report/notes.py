"""Sentences that a reader needs in order to judge the numbers of a report."""

from collections import Counter
from collections.abc import Sequence

from billhook.study.analysis.comparison import CLAIM_SEEDS
from billhook.study.analysis.energy import SOURCE
from billhook.study.analysis.statistics import LEVEL
from billhook.study.grid import DENSE, LARGE, LONGER, SPARSE
from billhook.study.records.rows import RunRow
from billhook.study.report.report import StudyReport
from billhook.study.spec import Study

__all__ = ["notes"]


def notes(report: StudyReport) -> list[str]:
    """The design, the rules that were fixed beforehand, and what the numbers do not say."""
    study, rows = report.study, report.rows
    lines = [
        f"Data: {study.data_description}.",
        _design(report),
        _claims(report),
        f"Chosen on validation {study.choose_by.replace('_', ' ')}, with as many trials for every "
        f"{_tuned(study)}: {_chosen(rows)}. The last weights count. Test data were used once, "
        "on the chosen networks as read back from their files.",
        "Bytes are those of the files that billhook.save wrote, header included. A sparse file "
        f"differs from the dense one it is compared with by {_mismatch(rows)} bytes.",
        _training(rows),
        f"Minimal loss: at most {study.margin:.2%} worse than the large network left dense, "
        f"relative, shown if the {LEVEL:.0%} interval lies within the margin; sparsities are "
        "tested from the lowest up until one fails.",
        "Bytes at an equal metric are read off the line through the dense means over log(bytes), "
        "the large dense network included; their interval holds every place at which the "
        "difference from that line has zero in its interval.",
        f"Energy is a model, not a measurement ({SOURCE}): multiply-adds of the nonzero weights, "
        "and one read of the file from DRAM for each example.",
    ]
    if not report.latency:
        lines.append(
            "Latency is left out: `billhook study run` measures it when the last run has ended, "
            "where billhook's kernels are built and the networks' files are still in runs/; "
            "`billhook study latency` measures more forms at any time."
        )
    elif report.equal_latency:
        lines.append(
            "At equal latency a sparse network is compared with what dense networks score in its "
            "time, by interpolation over log(milliseconds); one that is slower than a wider one is "
            "left out, and beyond the slowest that one counts. Programs of billhook in 8 bits have "
            "the test metric that they compute themselves; the forms of others in 8 bits have that "
            "of fp32, which favours them. The verdict at equal latency was not declared beforehand."
        )
    failed = sum(1 for row in rows if row.failure)
    if failed:
        lines.append(f"{failed} of {len(rows)} runs failed; they are listed with their reasons.")
    if report.design.paired:
        lines.append(
            "The intervals speak of random splits of this one data set, and splits overlap: for "
            "fresh data of the same kind every interval would have to be wider (Nadeau and Bengio "
            "2003, a conservative correction, multiply by sqrt(1 + seeds * test / train))."
        )
    return lines


def _tuned(study: Study) -> str:
    if study.tune == "each-seed":
        return "arm, size and seed"
    return "arm and size, on the first seed for all of them"


def _design(report: StudyReport) -> str:
    seeds, paired = len(report.study.seeds), report.design.paired
    draws = (
        "its own split of the data, initial weights and batches. The arms of a seed share split "
        "and batches, so differences (sparse minus dense) are paired by seed"
        if paired
        else "initial weights and the order of examples; all share one split of the data, and the "
        "arms count as independent: differences (sparse minus dense) have Welch's intervals"
    )
    return f"Each of {seeds} seeds draws {draws}."


def _claims(report: StudyReport) -> str:
    seeds = len(report.study.seeds)
    if seeds < CLAIM_SEEDS:
        return (
            f"A demonstration: {seeds} seeds are too few for intervals (it takes {CLAIM_SEEDS}), "
            "so none is claimed; bands and bars show the range of the seeds."
        )
    return (
        f"Intervals are {LEVEL:.0%} t-intervals over the seeds, each size by itself. The one "
        "contrast declared beforehand is the mean difference over log(bytes) in the first metric; "
        "a single size is won if its test holds at 5% for all sizes of that metric together "
        "(Holm's correction), undecided otherwise."
    )


def _chosen(rows: Sequence[RunRow]) -> str:
    """How often each learning rate was chosen; one at the edge of those tried shows here."""
    parts = []
    for arm in (DENSE, SPARSE, LONGER, LARGE):
        counts = Counter(_setting(row) for row in rows if row.chosen and row.arm == arm)
        if counts:
            times = ", ".join(f"{setting} {counts[setting]} times" for setting in sorted(counts))
            parts.append(f"{arm} {times}")
    return "; ".join(parts)


def _setting(row: RunRow) -> str:
    dropout = "" if row.dropout is None else f" with dropout {row.dropout:g}"
    return f"{row.learning_rate:g}{dropout}"


def _mismatch(rows: Sequence[RunRow]) -> str:
    found = [row.bytes - row.point for row in rows if row.arm == SPARSE and row.chosen]
    return f"{min(found):+,} to {max(found):+,}" if found else "unknown"


def _training(rows: Sequence[RunRow]) -> str:
    parts = []
    for arm in (DENSE, LONGER, SPARSE, LARGE):
        found = [row.training_operations for row in rows if row.arm == arm and row.chosen]
        if found:
            ends = sorted({f"{value:.2g}" for value in (min(found), max(found))}, key=float)
            parts.append(f"{arm} {' to '.join(ends)}")
    return (
        "Equal bytes and equal steps are not equal arithmetic: multiply-adds of training a "
        f"network, {'; '.join(parts)}."
    )
