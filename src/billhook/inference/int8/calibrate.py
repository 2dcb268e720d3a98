"""The range of each value of a captured network, from what calibration observes."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from billhook.inference import graph
from billhook.inference.graph import INPUT
from billhook.inference.int8.floats import values_of
from billhook.inference.int8.functions import telling
from billhook.inference.int8.ops import Range
from billhook.inference.int8.ranges import Calibration, Histogram

__all__ = ["calibrate"]

COPIES = (graph.Pool, graph.Rearrange, graph.Slice, graph.Join)  # whose bytes are those they read


def calibrate(
    ops: Sequence[graph.Op],
    batches: Sequence[torch.Tensor],
    calibration: Calibration,
    known: Mapping[int, tuple[float, float]] | None = None,
) -> dict[int, Range]:
    """The range of each value of bytes: from its ``known`` bounds, else from the batches."""
    histograms = {index: Histogram() for index in (INPUT, *range(len(ops)))}
    for batch in batches:
        for index, values in values_of(ops, batch).items():
            histograms[index].widen(values)
    for batch in batches:
        for index, values in values_of(ops, batch).items():
            histograms[index].count(values)
    bounds = {
        index: histogram.bounds(calibration.method, calibration.percentile)
        for index, histogram in histograms.items()
    }
    return _shared(ops, {**_cut(ops, bounds), **(known or {})})


def _cut(
    ops: Sequence[graph.Op], bounds: dict[int, tuple[float, float]]
) -> dict[int, tuple[float, float]]:
    """What a function alone reads needs no range where the function's bytes are the same."""
    readers = Counter(value for op in ops for value in op.inputs)
    cut = dict(bounds)
    for index, op in enumerate(ops):
        if isinstance(op, graph.Elementwise) and readers[op.inputs[0]] == 1:
            made = Range.of(*bounds[index])
            cut[op.inputs[0]] = telling(op, bounds[op.inputs[0]], made)
    return cut


def _shared(ops: Sequence[graph.Op], bounds: dict[int, tuple[float, float]]) -> dict[int, Range]:
    """One range for each set of values that must have the same: what pools, what is joined."""
    leader = {index: index for index in bounds}

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for index, op in enumerate(ops):
        if isinstance(op, COPIES) or (
            isinstance(op, graph.Other) and op.kind in ("flatten", "concat")
        ):
            for value in op.inputs:
                leader[find(value)] = find(index)
    groups: dict[int, list[int]] = {}
    for index in bounds:
        groups.setdefault(find(index), []).append(index)
    ranges: dict[int, Range] = {}
    for members in groups.values():
        low = min(bounds[index][0] for index in members)
        high = max(bounds[index][1] for index in members)
        if _saturates(ops, members, low, high):
            ranges |= dict.fromkeys(members, Range.of(low, high))
        else:
            ranges |= {index: Range.of(*bounds[index]) for index in members}
    return ranges


def _saturates(ops: Sequence[graph.Op], members: Sequence[int], low: float, high: float) -> bool:
    """Whether the ends of a common range still are what the members' activations cut off at.

    Where they are not each keeps its own range, and a step of its own brings it to the reader's.
    """
    kinds = {ops[index].activation for index in members if index != INPUT}
    return (low == 0.0 or not kinds & {"relu", "relu6"}) and (high <= 6.0 or "relu6" not in kinds)
