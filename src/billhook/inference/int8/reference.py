"""What a program in 8 bits computes, in integers of 64 bits and fp32: slow, and equal bit for bit.

It is what tests compare every kernel with, and it counts what lies beyond the calibrated ranges.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from billhook.inference.int8.ops import (
    INPUT,
    Concat,
    Conv,
    Flatten,
    Linear,
    Mean,
    Multiply,
    Op,
    Pool,
    Program,
    Quantise,
    Range,
    Select,
    Table,
)

__all__ = ["add_scales", "evaluate", "multiply_scale", "saturated_share"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Values = NDArray[Any]
f32 = np.float32


def to_bytes(values: Floats) -> Integers:
    """Rounded half to even and saturated; 0 for NaN."""
    rounded: Integers = np.rint(np.nan_to_num(values, nan=0.0).clip(0, 255)).astype(np.int64)
    return rounded


def _quantised(x: Floats, scale: Range) -> Floats:
    """Bytes yet to be rounded."""
    return x * f32(1 / scale.step) + f32(scale.zero)


def _convolve(x: Integers, op: Conv, zero: int) -> Integers:
    """Exact sums: the products fit in the 53 bits of fp64."""
    top, left, bottom, right = op.padding
    padded = F.pad(torch.from_numpy(x).double()[None], (left, right, top, bottom), value=zero)
    sums = F.conv2d(
        padded,
        torch.from_numpy(op.weight).double(),
        torch.from_numpy(op.bias).double(),
        op.stride,
        0,
        op.dilation,
        op.groups,
    )
    exact: Integers = sums[0].numpy().astype(np.int64)
    return exact


def _windows(x: Integers, op: Pool, fill: int) -> Integers:
    """(C, H, W, taps) of every window; what lies beyond the map is ``fill``."""
    (top, left), (kh, kw), (sh, sw) = op.padding, op.kernel, op.stride
    height, width = op.shape[1:]
    full = np.full((len(x), (height - 1) * sh + kh, (width - 1) * sw + kw), fill, np.int64)
    rows, columns = (
        min(x.shape[1], full.shape[1] - top),
        min(x.shape[2], full.shape[2] - left),
    )
    full[:, top : top + rows, left : left + columns] = x[:, :rows, :columns]
    view = np.lib.stride_tricks.sliding_window_view(full, (kh, kw), axis=(1, 2))[:, ::sh, ::sw]
    taps: Integers = view.reshape(*view.shape[:3], kh * kw)
    return taps


def _pool(x: Integers, op: Pool, zero: int) -> Floats:
    if op.kind == "max":
        largest: Floats = _windows(x, op, 0).max(axis=-1).astype(f32)
        return largest
    inside = _windows(np.ones_like(x), op, 0).sum(axis=-1)
    taps = np.full_like(inside, op.kernel[0] * op.kernel[1])
    sums, share = _windows(x, op, 0).sum(axis=-1), taps if op.count_padding else inside
    result: Floats = (sums + (share - inside) * zero).astype(f32) * (f32(1) / share.astype(f32))
    return result


def _unrounded(op: Op, index: int, program: Program, values: Mapping[int, Values]) -> Floats:
    """An operation's result before it becomes bytes."""
    sources = [values[value] for value in op.inputs]
    if isinstance(op, Conv | Linear):
        return _products(op, program, sources)
    if isinstance(op, Pool):
        return _pool(sources[0].astype(np.int64), op, program.bytes_range(op.inputs[0]).zero)
    if isinstance(op, Concat | Flatten):
        joined: Floats = np.concatenate(sources).astype(f32)
        return joined.reshape(op.shape) if isinstance(op, Flatten) else joined
    if isinstance(op, Table | Select):
        return _looked_up(op, sources[0])
    if isinstance(op, Quantise):
        return _quantised(sources[0].astype(f32), program.bytes_range(index))
    return (
        _multiplied(op, program, sources)
        if isinstance(op, Multiply)
        else _sum(op, program, sources)
    )


def _looked_up(op: Table | Select, x: Values) -> Floats:
    """Bytes of a table, or channels."""
    if isinstance(op, Table):
        values: Floats = op.table[x.astype(np.int64)].astype(f32)
        return values
    return x.astype(f32).reshape(len(x), -1)[op.index].reshape(op.shape)


def _sum(op: Op, program: Program, sources: list[Values]) -> Floats:
    """A sum of values or of pixels."""
    scales, shift = add_scales(program, op, sources[0].shape)
    if isinstance(op, Mean):
        sources = [sources[0].astype(np.int64).sum(axis=(1, 2))]
    result: Floats = sources[0].astype(f32) * f32(scales[0])
    for other, scale in zip(sources[1:], scales[1:], strict=True):
        result = result + other.astype(f32) * f32(scale)
    return result + f32(shift)


def _products(op: Conv | Linear, program: Program, sources: list[Values]) -> Floats:
    x, result = sources[0].astype(np.int64), np.zeros(0, f32)
    if isinstance(op, Conv):
        sums = _convolve(x, op, program.bytes_range(op.inputs[0]).zero)
        result = sums.astype(f32) * op.scale[:, None, None]
        for addend in sources[1:]:
            result = result + addend.astype(f32) * f32(op.addend_scale)
        return result
    sums = op.weight.astype(np.int64) @ x.reshape(len(x), -1) + op.bias[:, None]
    result = (sums.astype(f32) * op.scale[:, None]).reshape(op.weight.shape[0], *x.shape[1:])
    return np.maximum(result, f32(0)) if op.relu else result


def _multiplied(op: Multiply, program: Program, sources: list[Values]) -> Floats:
    """Products of 17 bits, which fp32 holds exactly."""
    centred = [
        source.astype(np.int64) - program.bytes_range(value).zero
        for source, value in zip(sources, op.inputs, strict=True)
    ]
    x, y = centred
    exact = (x * y.reshape(*y.shape, *[1] * (x.ndim - y.ndim))).astype(f32)
    assert op.range is not None
    result: Floats = exact * f32(multiply_scale(program, op)) + f32(op.range.zero)
    return result


def multiply_scale(program: Program, op: Multiply) -> float:
    """The factor of the product of two inputs' bytes, less their zeros."""
    assert op.range is not None
    first, second = (program.bytes_range(value).step for value in op.inputs)
    return first * second / op.range.step


def add_scales(program: Program, op: Op, shape: tuple[int, ...]) -> tuple[list[float], float]:
    """The factors of the inputs' bytes and the constant that give the result's bytes."""
    assert op.range is not None
    pixels = shape[1] * shape[2] if isinstance(op, Mean) else 1
    sources = [program.bytes_range(value) for value in op.inputs]
    scales = [source.step / op.range.step for source in sources]
    shift = op.range.zero - sum(
        source.zero * scale for source, scale in zip(sources, scales, strict=True)
    )
    return [scale / pixels for scale in scales], shift


def evaluate(
    program: Program,
    x: Floats,
    observe: Callable[[int, Floats], None] | None = None,
) -> Floats:
    """The result, fp32, of one map (C, H, W); ``observe`` gets bytes before they are rounded."""
    unrounded = _quantised(x, program.input_range)
    values: dict[int, Values] = {INPUT: to_bytes(unrounded)}
    if observe is not None:
        observe(INPUT, unrounded)
    for index, op in enumerate(program.ops):
        result = _unrounded(op, index, program, values)
        if op.range is not None and observe is not None:
            observe(index, result)
        values[index] = result if op.range is None else to_bytes(result)
    last = len(program.ops) - 1
    result, scale = values[last].astype(f32), program.range(last)
    return result if scale is None else (result - f32(scale.zero)) * f32(scale.step)


def saturated_share(program: Program, x: Floats) -> dict[str, float]:
    """Of each value, by its operation's name, the share that lies above its calibrated range.

    Below it only where the range's least byte is not an activation's zero.
    """
    shares: dict[str, float] = {}

    def observe(index: int, values: Floats) -> None:
        scale = program.bytes_range(index)
        beyond = values > 255.5
        if scale.zero > 0:
            beyond |= values < -0.5
        name = "the input" if index == INPUT else program.ops[index].name
        shares[name] = float(beyond.mean())

    evaluate(program, x, observe)
    return shares
