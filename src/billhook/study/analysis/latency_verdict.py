"""The verdict at equal latency in words."""

from collections.abc import Sequence

from billhook.study.analysis.equal_latency import AtLatency, EqualLatency
from billhook.study.analysis.verdict import lead
from billhook.study.grid import SPARSE, scheme_label
from billhook.tasks.task import Metric

__all__ = ["latency_verdict", "milliseconds"]


def latency_verdict(compared: Sequence[EqualLatency], metric: Metric) -> list[list[str]]:
    """For every way of running a headline, the mean over log-milliseconds, and every network."""
    return [[_headline(each, metric), *_lines(each)] for each in compared]


def milliseconds(value: float) -> str:
    """Three digits.

    >>> milliseconds(0.51234), milliseconds(12.3456)
    ('0.512 ms', '12.3 ms')
    """
    return f"{value:.3g} ms"


def _headline(each: EqualLatency, metric: Metric) -> str:
    row = each.networks[0].sparse.row
    kind = " ".join(part for part in (scheme_label(row.scheme), row.variant) if part)
    title = f"{metric.label} at equal latency, {each.way}, against {each.against}"
    compared = [n.difference for n in each.networks if n.difference is not None]
    alone = len(each.networks) - len(compared)
    claimed = any(d.claimed for d in compared)
    leaders = [d.winner if d.claimed else d.ahead for d in compared]
    counts = f"{SPARSE} {'wins' if claimed else 'is ahead'} at {leaders.count(SPARSE)}"
    counts += f" of {len(each.networks)} latencies, {each.against} at {leaders.count(each.against)}"
    if alone:
        counts += f"; at {alone} no dense network is as fast"
    if not claimed and compared:
        counts += " (a demonstration, no interval claimed)"
    return f"{kind} {title}: {counts}".lstrip()


def _lines(each: EqualLatency) -> list[str]:
    lines = []
    if each.contrast is not None:
        compared = [network.sparse for network in each.networks if network.dense is not None]
        low, high = compared[0].milliseconds, compared[-1].milliseconds
        lines.append(
            f"the mean over log-milliseconds from {milliseconds(low)} to {milliseconds(high)}: "
            f"{lead(each.contrast)}"
        )
    return [*lines, *(_network(network) for network in each.networks)]


def _network(network: AtLatency) -> str:
    place = f"in {milliseconds(network.sparse.milliseconds)}, {network.sparse.label}"
    if network.difference is None:
        return f"{place}: no dense network is as fast"
    return f"{place}: {lead(network.difference)}"
