"""A network's steps as plain data: what a file holds for runtimes that need no torch.

Places do not depend on the instruction set, packed weights do: a step names its weight's tensor
and says how its nonzeros find their operands. What torch would run dense is described as a sparse
step over all its weights.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

from billhook.inference.graph import Layer, Op
from billhook.inference.graph.ops import Shape, Unbound
from billhook.inference.kernels import ACTIVATIONS, Step, View
from billhook.inference.network.lowering import Lowering
from billhook.inference.plan import Choice

__all__ = ["OPS", "describe"]

OPS = ("copy", "spmm", "max_pool", "average_pool", "mean", "add", "linear", "depthwise")
"""The names of steps in files; a step's number is its place here."""
DENSE_VECTORS = 8  # of the tiles of a layer that torch would run


def describe(ops: list[Op], input_shape: Shape, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Inputs, outputs, the floats of the workspace and the steps, or ``missing``: the operation
    that keeps the program from being run without torch."""
    lowering = Lowering(ops, input_shape, _without_torch(ops, choices), 0, target=Unbound())
    steps = []
    for index, part in lowering.parts():
        if not isinstance(part, Step) or part.op >= len(OPS):
            op = ops[index]
            what = getattr(op, "function", "") or getattr(op, "kind", "") or op.type_name
            return {"missing": f"operation {index}, {op.name!r} ({what})"}
        steps.append(_step(part))
    return {
        "inputs": [{"name": "input", "dtype": "F32", "shape": list(input_shape)}],
        "outputs": [{"name": "output", "dtype": "F32", "shape": list(ops[-1].shape)}],
        "workspace": lowering.placed.size,
        "steps": steps,
    }


def _without_torch(ops: list[Op], choices: Mapping[str, Choice]) -> dict[str, Choice]:
    own = dict(choices)
    for op in ops:
        if isinstance(op, Layer) and own[op.name].kernel == "dense":
            sparse = next((kernel for kernel in op.kernels_for() if kernel != "dense"), "dense")
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
            data[name] = ACTIVATIONS[value] if name == "activation" else value
    return data | dict(step.note)
