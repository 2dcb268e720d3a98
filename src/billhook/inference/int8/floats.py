"""The fp32 values of a captured network, operation by operation: what calibration observes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from billhook.inference import graph
from billhook.inference.graph import INPUT, Op, UnsupportedError
from billhook.inference.graph.ops import Shape
from billhook.inference.int8.functions import applied

__all__ = ["elements_of", "values_of"]


def values_of(ops: Sequence[Op], x: torch.Tensor) -> dict[int, torch.Tensor]:
    """Each operation's result for a batch: (N, C, H, W), or (N, F) of vectors."""
    values = {INPUT: x}
    for index, op in enumerate(ops):
        values[index] = _activated(_result(op, [values[value] for value in op.inputs]), op)
    return values


def _activated(x: torch.Tensor, op: Op) -> torch.Tensor:
    return x.relu() if op.activation == "relu" else x.clamp(0, 6) if op.activation != "none" else x


def _result(op: Op, inputs: list[torch.Tensor]) -> torch.Tensor:
    x = inputs[0]
    if isinstance(op, graph.Conv):
        top, left, bottom, right = op.padding
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, op.dense_weight, op.bias, op.stride, 0, op.dilation, op.groups)
    if isinstance(op, graph.Linear):
        return F.linear(x, op.dense_weight, op.bias)
    if isinstance(op, graph.Pool):
        return _pool(x, op)
    if isinstance(op, graph.Other):
        return _other(op, inputs)
    return _elements(op, inputs)


def _elements(op: Op, inputs: list[torch.Tensor]) -> torch.Tensor:
    """What works on elements, or only moves them."""
    x = inputs[0]
    if isinstance(op, graph.Elementwise):
        return applied(op, x)
    if isinstance(op, graph.Binary):
        return _binary(op, inputs)
    if isinstance(op, graph.Rearrange | graph.Slice):
        taken = torch.from_numpy(elements_of(op, tuple(x.shape[1:])).reshape(-1))
        return x.flatten(1)[:, taken].reshape(len(x), *op.shape)
    if isinstance(op, graph.Join):
        return torch.cat(inputs, op.axis + 1)
    raise UnsupportedError(f"{op.name} has no 8-bit form")


def _binary(op: graph.Binary, inputs: list[torch.Tensor]) -> torch.Tensor:
    x, y = inputs
    y = y.reshape(*y.shape, *[1] * (x.dim() - y.dim()))
    if op.function not in ("add", "mul"):
        raise UnsupportedError(f"{op.name} ({op.function}) has no 8-bit form")
    return x + y if op.function == "add" else x * y


def elements_of(op: graph.Rearrange | graph.Slice, source: Shape) -> NDArray[np.int64]:
    """Which element of a value of the shape ``source`` each of the result's is.

    >>> elements_of(graph.Slice("s", (-1,), (1, 1, 3), first=1), (2, 1, 3)).tolist()
    [[[3, 4, 5]]]
    """
    every = np.arange(math.prod(source)).reshape(source)
    if isinstance(op, graph.Slice):
        return every[op.first : op.first + op.shape[0]]
    made = np.zeros(op.shape, np.int64)
    at = np.indices(op.sizes).reshape(len(op.sizes), math.prod(op.sizes))
    reads = [np.full(at.shape[1], first) for first in op.start]
    writes = [np.zeros(at.shape[1], np.int64) for _ in op.shape]
    for d, own in enumerate(at):
        reads[op.from_axes[d]] += own * op.from_steps[d]
        writes[op.to_axes[d]] += own * op.to_steps[d]
    made[tuple(writes)] = every[tuple(reads)]
    return made


def _other(op: graph.Other, inputs: list[torch.Tensor]) -> torch.Tensor:
    if op.kind == "add":
        return inputs[0] + inputs[1]
    if op.kind == "concat":
        return torch.cat(inputs, 1)
    if op.kind == "mean":
        return inputs[0].mean((2, 3))
    return inputs[0].flatten(1) if op.kind == "flatten" else inputs[0]


def _pool(x: torch.Tensor, op: graph.Pool) -> torch.Tensor:
    """Windows may reach beyond the end of the map, as far as the result's shape says."""
    (top, left), (kh, kw), (sh, sw) = op.padding, op.kernel, op.stride
    bottom = (op.shape[1] - 1) * sh + kh - top - x.shape[2]
    right = (op.shape[2] - 1) * sw + kw - left - x.shape[3]
    around = (left, right, top, bottom)
    if op.kind == "max":
        return F.max_pool2d(F.pad(x, around, value=float("-inf")), op.kernel, op.stride)
    sums = F.avg_pool2d(F.pad(x, around), op.kernel, op.stride)
    if op.count_padding:
        return sums
    return sums / F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), around), op.kernel, op.stride)
