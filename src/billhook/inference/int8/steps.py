"""A program in 8 bits as steps in plain data: what a file holds for runtimes that need no torch.

Places do not depend on the instruction set, packed weights do: a step names its weight's tensors.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

from billhook.inference.int8.bindings import OPS, Step, View, Window
from billhook.inference.int8.lowering import lower
from billhook.inference.int8.ops import PIXELS, Program
from billhook.inference.plan import Choice

__all__ = ["describe", "ports"]


def describe(program: Program, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """The bytes of the workspace, the samples that run at once, and the steps."""
    lowered = lower(program, choices, None)
    return {
        "workspace": lowered.size,
        "at_once": PIXELS if program.by_sample else 1,
        "steps": [_step(step) for step in lowered.steps],
    }


def ports(program: Program) -> dict[str, Any]:
    """The input and the output, as programs in fp32 have them."""
    common = {"dtype": "F32", "axis": 0}
    given = {"name": program.input_name, "shape": list(program.sample_shape), **common}
    made = {"name": "y0", "shape": list(program.output_shape), "merged": False, **common}
    return {"inputs": [given], "outputs": [{**made, "value": len(program.ops) - 1}]}


def _step(step: Step) -> dict[str, Any]:
    """Its views as [buffer, offset, plane] and its numbers, but for what is zero."""
    data: dict[str, Any] = {"op": OPS[step.op]}
    for name, kind, *_ in Step._fields_[1:]:
        value = getattr(step, name)
        if kind is View and value.buffer >= 0:
            data[name] = [value.buffer, value.offset, value.plane]
        elif kind is Window and value.kernel_height:
            data[name] = {each: getattr(value, each) for each, *_ in Window._fields_}
        elif kind in (ctypes.c_int64, ctypes.c_double) and value:
            data[name] = value
    return data | dict(step.note)
