"""A network's steps as plain data: what a file holds for runtimes that need no torch.

Places do not depend on the instruction set, packed weights do: a step names its weight's tensor
and says how its nonzeros find their operands. What runs dense is described as a sparse step over
all its weights.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

from billhook.inference.graph import Graph, Layer
from billhook.inference.graph.ops import Unbound
from billhook.inference.graph.reduce import REDUCTIONS
from billhook.inference.kernels import (
    ATTENTION,
    BINARY,
    BINARY_FUNCTIONS,
    CAST,
    CONV_ACTIVATIONS,
    FUNCTIONS,
    NORMALISE,
    NUMBERS,
    POINTWISE,
    REDUCE,
    RESIZE,
    SOFTMAX,
    Step,
    View,
)
from billhook.inference.network.lowering import Lowering
from billhook.inference.plan import Choice

__all__ = ["OPS", "describe"]

OPS = (
    *("copy", "spmm", "max_pool", "average_pool", "mean", "add", "linear", "depthwise"),
    *("rearrange", "fill", "pointwise", "binary", "normalise", "softmax", "reduce", "matmul"),
    *("attention", "embed", "cast", "resize", "lstm", "gru"),
)
"""The names of steps in files; a step's number is its place here."""
EXTENTS = ("across_channels", "across_rows", "within_row")  # csrc's Extent
NAMED = {
    POINTWISE: FUNCTIONS,
    BINARY: BINARY_FUNCTIONS,
    CAST: NUMBERS,
    NORMALISE: EXTENTS,
    SOFTMAX: EXTENTS,
    REDUCE: REDUCTIONS,
    ATTENTION: ("all", "causal"),
    RESIZE: ("centres", "corners"),
}
"""The names in files of what steps compute, by their ``function``."""
DENSE_VECTORS = 8  # of the tiles of a layer that runs dense


def describe(graph: Graph, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """The floats of the workspace and of the constants, where each constant lies among these, and
    the steps."""
    lowering = Lowering(graph, _sparse(graph, choices), 0, target=Unbound())
    placed = lowering.placed
    return {
        "workspace": placed.size,
        "constants": {
            "size": placed.constant_size,
            "at": {f"{index}.data": start for index, start in placed.constants.items()},
        },
        "steps": [_step(step) for step in lowering.steps()],
    }


def _sparse(graph: Graph, choices: Mapping[str, Choice]) -> dict[str, Choice]:
    own = dict(choices)
    for op in graph.ops:
        if isinstance(op, Layer) and own[op.name].kernel == "dense":
            sparse = next(kernel for kernel in op.kernels_for() if kernel != "dense")
            own[op.name] = Choice(sparse, DENSE_VECTORS)
    return own


def _step(step: Step) -> dict[str, Any]:
    """Its views as [buffer, offset, plane, pitch] and its numbers, but for what is zero."""
    data: dict[str, Any] = {"op": OPS[step.op]}
    for name, kind, *_ in Step._fields_[1:]:
        value = getattr(step, name)
        if kind is View and value.buffer >= 0:
            data[name] = [value.buffer, value.offset, value.plane, value.pitch]
        elif kind is ctypes.c_int64 and value:
            data[name] = CONV_ACTIVATIONS[value] if name == "activation" else value
        elif isinstance(value, ctypes.Array) and any(value):
            data[name.rstrip("_")] = list(value)
    if step.op in NAMED:
        data["function"] = NAMED[step.op][step.function]
    return data | dict(step.note)
