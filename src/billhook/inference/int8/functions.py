"""Functions of one value: in fp32 as torch computes them, in 8 bits as a table of 256 bytes.

A byte q stands for x = (q - zero) * step, so f(x), rounded to a byte of the result's range, is one
of 256 bytes: table[q]. Looking it up is exact, and equal on every instruction set.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from billhook.inference.graph import Elementwise, Graph, Linear, Op, UnsupportedError
from billhook.inference.int8.ops import Range
from billhook.inference.kernels import ACTIVATIONS

__all__ = ["applied", "separated", "table_of", "telling"]

Bounds = tuple[float, float]
POINTS = 8192  # where a function is tried to find the ends of what its argument tells

_FUNCTIONS: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "affine": lambda x, a, b: a * x + b,
    "clamp": lambda x, a, b: x.clamp(a, b),
    "leaky_relu": lambda x, a, _: F.leaky_relu(x, a),
    "hardswish": lambda x, *_: F.hardswish(x),
    "hardsigmoid": lambda x, *_: F.hardsigmoid(x),
    "sigmoid": lambda x, *_: x.sigmoid(),
    "silu": lambda x, *_: F.silu(x),
    "tanh": lambda x, *_: x.tanh(),
    "gelu": lambda x, *_: F.gelu(x),
    "gelu_tanh": lambda x, *_: F.gelu(x, approximate="tanh"),
    "exp": lambda x, *_: x.exp(),
    "elu": lambda x, a, _: F.elu(x, a),
    "abs": lambda x, *_: x.abs(),
    "sqrt": lambda x, *_: x.sqrt(),
    "reciprocal": lambda x, *_: x.reciprocal(),
    "mish": lambda x, *_: F.mish(x),
    "log": lambda x, *_: x.log(),
    "equal": lambda x, a, _: (x == a).to(x.dtype),
    "choose": lambda x, a, b: torch.where(x != 0, a, b).to(x.dtype),
}


def applied(op: Elementwise, x: torch.Tensor) -> torch.Tensor:
    """The function of each element.

    >>> applied(Elementwise("f", (-1,), (2,), function="clamp", parameters=(0.0, 6.0)),
    ...         torch.tensor([-1.0, 7.0])).tolist()
    [0.0, 6.0]
    """
    return _FUNCTIONS[op.function](x, *op.parameters)


def separated(graph: Graph) -> Graph:
    """The graph with functions that bytes cannot saturate to as operations of their own.

    A result of bytes is saturated, which is ReLU and ReLU6; a linear layer's floats are only cut
    off at zero.
    """
    ops: list[Op] = []
    number = {-1 - k: -1 - k for k in range(len(graph.inputs))}
    for index, op in enumerate(graph.ops):
        own = replace(op, inputs=tuple(number[value] for value in op.inputs))
        plain = ("none", "relu") if isinstance(op, Linear) else ACTIVATIONS
        if op.activation not in plain:
            function, parameters = op.activation, (0.0, 0.0)
            if function == "relu6":
                function, parameters = "clamp", (0.0, 6.0)
            ops.append(replace(own, activation="none"))
            name, reads = f"{op.name}.{op.activation}", (len(ops) - 1,)
            own = Elementwise(name, reads, op.shape, function=function, parameters=parameters)
        ops.append(own)
        number[index] = len(ops) - 1
    outputs = tuple(replace(each, value=number[each.value]) for each in graph.outputs)
    return replace(graph, ops=tuple(ops), outputs=outputs)


def _bytes_of(op: Elementwise, x: NDArray[Any], own: Range) -> NDArray[np.float64]:
    """Of each x the byte of f(x), NaN where that is not a number."""
    value = applied(op, torch.from_numpy(x)).numpy()
    result: NDArray[np.float64] = np.rint(value / own.step + own.zero).clip(0, 255)
    return result


def table_of(op: Elementwise, source: Range, own: Range) -> NDArray[np.uint8]:
    """The byte of f(x) for the byte of each x.

    >>> relu = Elementwise("f", (-1,), (1,), function="clamp", parameters=(0.0, float("inf")))
    >>> table_of(relu, Range(0.1, 128), Range(0.05, 0))[[0, 128, 129, 255]].tolist()
    [0, 0, 2, 254]

    Raises:
        UnsupportedError: f is not defined somewhere in the range.
    """
    made = _bytes_of(op, (np.arange(256) - source.zero) * source.step, own)
    if np.isnan(made).any():
        raise UnsupportedError(f"{op.name} ({op.function}) is not defined on all of its input")
    return made.astype(np.uint8)


def telling(op: Elementwise, bounds: Bounds, own: Range) -> Bounds:
    """The part of an argument's bounds beyond which the result's byte stays the same.

    What saturates there loses nothing, and what is left has smaller steps.

    >>> hardsigmoid = Elementwise("f", (-1,), (1,), function="hardsigmoid")
    >>> [round(end, 1) for end in telling(hardsigmoid, (-20.0, 30.0), Range.of(0.0, 1.0))]
    [-3.0, 3.0]
    """
    low, high = bounds
    if not high > low:
        return bounds
    x = np.linspace(low, high, POINTS)
    made = _bytes_of(op, x, own)
    changes = np.flatnonzero(made[1:] != made[:-1])
    if len(changes) == 0:
        return bounds
    return float(x[changes[0]]), float(x[changes[-1] + 1])
