"""The fp32 values of a captured network, operation by operation: what calibration observes."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from billhook.inference.graph import INPUT, Conv, Linear, Op, Other, Pool, UnsupportedError

__all__ = ["values_of"]


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
    if isinstance(op, Conv):
        top, left, bottom, right = op.padding
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, op.dense_weight, op.bias, op.stride, 0, op.dilation, op.groups)
    if isinstance(op, Linear):
        return F.linear(x, op.dense_weight, op.bias)
    if isinstance(op, Pool):
        return _pool(x, op)
    if not isinstance(op, Other):
        raise UnsupportedError(f"{op.name} has no 8-bit form")
    return _other(op, inputs)


def _other(op: Other, inputs: list[torch.Tensor]) -> torch.Tensor:
    if op.kind == "add":
        return inputs[0] + inputs[1]
    if op.kind == "concat":
        return torch.cat(inputs, 1)
    if op.kind == "mean":
        return inputs[0].mean((2, 3))
    return inputs[0].flatten(1) if op.kind == "flatten" else inputs[0]


def _pool(x: torch.Tensor, op: Pool) -> torch.Tensor:
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
