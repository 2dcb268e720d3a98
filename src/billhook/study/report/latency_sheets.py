"""The tables of a report about time: every network by every form, and the arms at equal latency."""

from collections.abc import Sequence

from billhook.study.analysis.equal_latency import EqualLatency, Timed
from billhook.study.analysis.latency_verdict import milliseconds
from billhook.study.analysis.statistics import LEVEL
from billhook.study.analysis.verdict import saved
from billhook.study.grid import SPARSE
from billhook.study.records.latency import Timing
from billhook.study.records.rows import RunRow
from billhook.study.report.charts.axes import titled
from billhook.study.report.sheet import Sheet
from billhook.tasks.task import Metric

__all__ = ["conditions", "equal_latency_sheet", "latency_failure_sheet", "latency_sheet"]


def conditions(timings: Sequence[Timing]) -> str:
    """Where and how the times were taken."""
    clocks = {"cpu": "processor time", "wall": "elapsed time"}
    found = dict.fromkeys(
        (each.machine, each.isa, each.threads, clocks.get(each.clock, each.clock))
        for each in timings
    )
    return "; ".join(
        f"{machine}, {f'{isa}, ' if isa else ''}{threads} thread{'s' * (threads > 1)}, {clock}"
        for machine, isa, threads, clock in found
    )


def latency_sheet(metric: Metric, found: Sequence[Timed], timings: Sequence[Timing]) -> Sheet:
    """The time of one example by every form that ran a network, and the metric of that form."""
    rows = [
        (
            each.label,
            each.form,
            str(len(each.scores)),
            milliseconds(each.milliseconds),
            f"{metric.scale * each.score.mean:.{metric.digits}f}",
        )
        for each in sorted(found, key=lambda each: (each.form, each.milliseconds))
    ]
    inputs = ", ".join(dict.fromkeys(each.input for each in timings if each.input))
    headings = "network", "form", "seeds", "median", titled(f"test {metric.label}", metric.shown_in)
    title = f"Latency of one example ({inputs}): {conditions(timings)}"
    return Sheet(title, headings, tuple(rows), keys=2)


def equal_latency_sheet(metric: Metric, compared: EqualLatency) -> Sheet:
    """Each sparse network beside what dense ones score in its time."""
    rows = []
    for network in compared.networks:
        sparse, difference = network.sparse, network.difference
        sparse_mean = f"{metric.scale * sparse.score.mean:.{metric.digits}f}"
        place = sparse.label, sparse.form, milliseconds(sparse.milliseconds)
        factor = saved(network.reading) if network.reading is not None else ""
        if difference is None or network.dense is None:
            rows.append((*place, "none is as fast", sparse_mean, "", "", factor))
            continue
        shown, digits = difference.interval.scaled(metric.scale), metric.digits
        lead = f"{shown.mean:+.{digits}f}"
        if difference.claimed:
            lead += f" ({shown.low:+.{digits}f} to {shown.high:+.{digits}f})"
        winner = (difference.winner or "undecided") if difference.claimed else "no claim"
        dense = f"{metric.scale * network.dense.mean:.{digits}f}"
        rows.append((*place, dense, sparse_mean, lead, winner, factor))
    headings = (
        *("network", "form", "median", compared.against, SPARSE),
        *(f"difference, {LEVEL:.0%} interval", "wins"),
        "times the milliseconds, dense, for the same metric",
    )
    better = "higher" if metric.higher_is_better else "lower"
    what = f"Test {metric.label} at equal latency, {compared.way}"
    title = titled(what, metric.shown_in, f"{better} is better")
    return Sheet(title, headings, tuple(rows), keys=2)


def latency_failure_sheet(timings: Sequence[Timing], rows: Sequence[RunRow]) -> Sheet:
    """Forms that do not run a network, and why: once for all networks with the same reason."""
    known = {row.run for row in rows}
    counts: dict[tuple[str, str], int] = {}
    for each in timings:
        if each.failure and each.run in known:
            key = each.form, each.failure
            counts[key] = counts.get(key, 0) + 1
    lines = tuple((form, str(count), reason) for (form, reason), count in counts.items())
    return Sheet("Forms that did not run", ("form", "networks", "reason"), lines)
