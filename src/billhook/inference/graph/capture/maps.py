"""Convolutions, batch norm, pools and resizing: what works on maps (N, C, H, W) or (N, C, T)."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from billhook.inference.graph.capture.atoms import Atoms, atoms_of, expand, regroup, size_of
from billhook.inference.graph.capture.shapes import given, sliced
from billhook.inference.graph.capture.trace import Arguments, Trace, Value, constant, handles
from billhook.inference.graph.conv import Conv
from billhook.inference.graph.elementwise import Binary
from billhook.inference.graph.linear import Linear
from billhook.inference.graph.maps import Mean, Pool
from billhook.inference.graph.ops import Shape, UnsupportedError
from billhook.inference.graph.resize import Resize

__all__ = ["conv_padding", "linear_of_vector", "map_axes", "map_result", "mean_of_pixels"]

Pair = tuple[int, int]


def pair_of(value: Any, rank: int = 4) -> Pair:
    """A setting for rows and columns; of one dimension it is for columns."""
    numbers = [value] if isinstance(value, int) else list(value)
    if rank == 3:
        return 1, int(numbers[0])
    return int(numbers[0]), int(numbers[-1])


def margins(value: Any, rank: int) -> Pair:
    """The same of padding, which rows that are not there have none of."""
    rows, columns = pair_of(value, rank)
    return (0, columns) if rank == 3 else (rows, columns)


def conv_padding(padding: Any, kernel: Shape, dilation: Pair, rank: int = 4) -> tuple[int, ...]:
    """Top, left, bottom, right; "same" pads the end more if it cannot pad both ends alike.

    >>> conv_padding("same", (1, 4), (1, 1))
    (0, 1, 0, 2)
    """
    if padding == "same":
        height, width = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return height // 2, width // 2, height - height // 2, width - width // 2
    height, width = (0, 0) if padding == "valid" else margins(padding, rank)
    return height, width, height, width


def map_axes(trace: Trace, value: Value) -> tuple[Atoms, Atoms, Atoms]:
    """The axes of maps: channels, rows if there are any, columns."""
    if len(value.dims) not in (3, 4) or expand(value.dims[0]) != (trace.batch,):
        raise UnsupportedError("maps of other dimensions than (N, C, H, W) or (N, C, T)")
    channels, *rows, columns = (trace.without_batch(dim) for dim in value.dims[1:])
    return channels, rows[0] if rows else (), columns


def result_dims(trace: Trace, sizes: Shape, rank: int) -> list[Atoms]:
    """New dimensions for a result of these channels, rows and columns."""
    made = [atoms_of(size) for size in sizes]
    kept = made if rank == 4 else [made[0], made[2]]
    return [(trace.batch,), *kept]


def map_result(trace: Trace, op: Any, rank: int) -> Value:
    """The value of an operation that makes maps."""
    dims = result_dims(trace, op.shape, rank)
    axes = (dims[1], dims[2] if rank == 4 else (), dims[-1])
    return trace.emit(op, axes, dims)


@handles("conv2d", "conv1d")
def conv(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """A convolution, or on averaged maps a linear layer."""
    weight, bias = trace.weight(a["weight"]), trace.weight(a["bias"])
    assert weight is not None
    given = trace.values[a["input"]]
    frame, value = given.padding, replace(given, padding=(0, 0, 0, 0))
    rank = len(value.dims)
    name = trace.layer_name(node, a["weight"])
    weight = weight.unsqueeze(2) if rank == 3 else weight
    axes = map_axes(trace, value)
    stride, dilation = pair_of(a["stride"], rank), pair_of(a["dilation"], rank)
    own = conv_padding(a["padding"], tuple(weight.shape[2:]), dilation, rank)
    padding = tuple(p + q for p, q in zip(own, frame, strict=True))
    plain = tuple(weight.shape[2:]) == (1, 1) and a["groups"] == 1 and not any(padding)
    if plain and size_of(axes[1]) * size_of(axes[2]) == 1:
        return linear_of_vector(trace, value, name, weight.flatten(1), bias)
    op = Conv(
        name=name,
        inputs=(trace.arrange(value, axes),),
        shape=(),
        weight=weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=a["groups"],
    )
    rows, columns = op.size_for(size_of(axes[1]), size_of(axes[2]))
    return map_result(trace, replace(op, shape=(len(weight), rows, columns)), rank)


def linear_of_vector(
    trace: Trace, value: Value, name: str, weight: torch.Tensor, bias: torch.Tensor | None
) -> Value:
    """A linear layer on the second dimension, where the others have one element."""
    number = trace.arrange(value, (trace.features(value),))
    out = atoms_of(len(weight))
    op = Linear(name, (number,), (len(weight),), weight=weight, bias=bias)
    return trace.emit(op, (out,), [value.dims[0], out, *value.dims[2:]])


@handles("conv_transpose2d", "conv_transpose1d")
def conv_transpose(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """A convolution that makes all phases of the result, and the order that puts them together.

    With o + p = q s + r, y[o] is the sum over m of x[q - m] w[r + s m].
    """
    weight, bias = trace.weight(a["weight"]), trace.weight(a["bias"])
    assert weight is not None
    value = trace.value(a["input"])
    rank = len(value.dims)
    weight = weight.unsqueeze(2) if rank == 3 else weight
    axes = map_axes(trace, value)
    stride, padding = pair_of(a["stride"], rank), margins(a["padding"], rank)
    if pair_of(a["dilation"], rank) != (1, 1):
        raise UnsupportedError("a transposed convolution with dilation")
    extra, groups = margins(a["output_padding"], rank), a["groups"]
    size = [size_of(axis) for axis in axes[1:]]
    kernel = tuple(weight.shape[2:])
    made = [
        (n - 1) * s - 2 * p + k + e
        for n, s, p, k, e in zip(size, stride, padding, kernel, extra, strict=True)
    ]
    taps = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    steps = [-(-(p + m) // s) for p, m, s in zip(padding, made, stride, strict=True)]
    steps = [max(q, n) for q, n in zip(steps, size, strict=True)]
    phases = _phases(weight, stride, taps, groups)
    op = Conv(
        name=trace.layer_name(node, a["weight"]),
        inputs=(trace.arrange(value, axes),),
        shape=(len(phases), steps[0], steps[1]),
        weight=phases,
        bias=None if bias is None else bias.repeat_interleave(stride[0] * stride[1]),
        padding=(
            *(taps[0] - 1, taps[1] - 1),
            *(steps[0] - size[0], steps[1] - size[1]),
        ),
        groups=groups,
    )
    out = len(phases) // (stride[0] * stride[1])
    channels, rows, columns = (atoms_of(n) for n in (out, *steps))
    phase = [atoms_of(s) for s in stride]
    dims = [(trace.batch,), channels, rows + phase[0], columns + phase[1]]
    result = trace.emit(op, (channels + phase[0] + phase[1], rows, columns), dims)
    for d in (2, 3):
        result = sliced(trace, result, d, padding[d - 2], made[d - 2])
    return result if rank == 4 else replace(result, dims=(*result.dims[:2], result.dims[3]))


def _phases(weight: torch.Tensor, stride: Pair, taps: list[int], groups: int) -> torch.Tensor:
    """(C, M / groups, kh, kw) to the filters of all phases, (M * sh * sw, C / groups, ...)."""
    channels, filters = weight.shape[:2]
    whole = weight.new_zeros(channels, filters, *(t * s for t, s in zip(taps, stride, strict=True)))
    whole[:, :, : weight.shape[2], : weight.shape[3]] = weight
    parts = whole.reshape(
        *(groups, channels // groups, filters),
        *(taps[0], stride[0], taps[1], stride[1]),
    )
    ordered = parts.permute(0, 2, 4, 6, 1, 3, 5).flip(5, 6)
    return ordered.reshape(-1, channels // groups, *taps).contiguous()


@handles("batch_norm")
def batch_norm(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """Folded into the layer before; by itself a depthwise 1x1 convolution, or a product and a sum
    of vectors."""
    mean, variance = trace.weight(a["running_mean"]), trace.weight(a["running_var"])
    if a["training"] or mean is None or variance is None:
        raise UnsupportedError("batch norm without running statistics")
    scale, shift = trace.weight(a["weight"]), trace.weight(a["bias"])
    factor = torch.rsqrt(variance + a["eps"]) * (1 if scale is None else scale)
    added = -mean * factor + (0 if shift is None else shift)
    value = trace.value(a["input"])
    number = trace.only_reader(a["input"], (Conv, Linear))
    before = None if number is None else trace.ops[number]
    if isinstance(before, Conv | Linear) and value.dims[1] in value.axes[:1]:
        assert number is not None
        weight = before.dense_weight
        bias = added if before.bias is None else before.bias * factor + added
        weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
        trace.ops[number] = replace(before, weight=weight, bias=bias)
        return value
    if len(value.dims) == 2:
        return _scaled_vector(trace, node, value, factor, added)
    axes = map_axes(trace, value)
    op = Conv(
        name=node.name,
        inputs=(trace.arrange(value, axes),),
        shape=tuple(size_of(axis) for axis in axes),
        weight=factor.view(-1, 1, 1, 1),
        bias=added,
        groups=len(factor),
    )
    return trace.emit(op, axes, value.dims)


def _scaled_vector(
    trace: Trace, node: fx.Node, value: Value, factor: torch.Tensor, added: torch.Tensor
) -> Value:
    axes = (trace.features(value),)
    value = replace(value, number=trace.arrange(value, axes), axes=axes)
    for function, numbers in (("mul", factor), ("add", added)):
        other = trace.as_operand(constant(numbers), value.dims, axes)
        op = Binary(node.name, (value.number, other), (len(numbers),), function=function)
        value = trace.emit(op, axes, value.dims)
    return value


@handles("max_pool2d", "max_pool1d")
def max_pool(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    if any(d != 1 for d in pair_of(a["dilation"])):
        raise UnsupportedError("max_pool2d with dilation")
    return _pool(trace, node, a, "max", True)


@handles("avg_pool2d", "avg_pool1d")
def avg_pool(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = trace.value(a["self"])
    rank = len(value.dims)
    before, kernel = value.sizes, pair_of(a["kernel_size"], rank)
    rows, columns = (before[-2] if rank == 4 else 1), before[-1]
    whole = kernel[0] >= rows and kernel[1] >= columns and not any(margins(a["padding"], rank))
    if a.get("divisor_override") is not None:
        raise UnsupportedError("avg_pool2d with divisor_override")
    if a["ceil_mode"] and whole:  # one window, cut off at the map's ends
        return mean_of_pixels(trace, node, value)
    if a["ceil_mode"] and a["count_include_pad"]:
        raise UnsupportedError("avg_pool2d with ceil_mode")
    return _pool(trace, node, a, "average", a["count_include_pad"])


def _pool(trace: Trace, node: fx.Node, a: Arguments, kind: str, count: bool) -> Value:
    given = trace.values[a["self"]]
    value = trace.padded(given) if any(given.padding) else given
    rank = len(value.dims)
    axes = map_axes(trace, value)
    kernel = pair_of(a["kernel_size"], rank)
    sizes = tuple(node.meta["val"].shape)
    op = Pool(
        name=node.name,
        inputs=(trace.arrange(value, axes),),
        shape=(sizes[1], sizes[2] if rank == 4 else 1, sizes[-1]),
        kind=kind,
        kernel=kernel,
        stride=pair_of(a["stride"], rank) if a["stride"] else kernel,
        padding=margins(a["padding"], rank),
        count_padding=count,
    )
    return map_result(trace, op, rank)


def mean_of_pixels(trace: Trace, node: fx.Node, value: Value) -> Value:
    """The mean of each channel's pixels, as maps of one pixel."""
    axes = map_axes(trace, value)
    if size_of(axes[1]) * size_of(axes[2]) == 1:
        return value
    op = Mean(node.name, (trace.arrange(value, axes),), (size_of(axes[0]),))
    return trace.emit(op, (axes[0],), [*value.dims[:2], *[()] * (len(value.dims) - 2)])


@handles("adaptive_avg_pool2d", "adaptive_avg_pool1d", "adaptive_max_pool2d", "adaptive_max_pool1d")
def adaptive_pool(trace: Trace, node: fx.Node, a: Arguments) -> Any:
    kind = "max" if "max" in str(node.target) else "average"
    value = trace.value(a["self"])
    rank = len(value.dims)
    made = node.meta["val"]
    sizes = tuple((made[0] if isinstance(made, tuple | list) else made).shape)
    if sizes == value.sizes:
        return (value, None) if kind == "max" else value
    if kind == "average" and math.prod(sizes[2:]) == 1:
        return mean_of_pixels(trace, node, value)
    before, after = value.sizes[2:], sizes[2:]
    if any(n % m for n, m in zip(before, after, strict=True)):
        raise UnsupportedError(f"an adaptive pool from {before} to {after}")
    kernel = [n // m for n, m in zip(before, after, strict=True)]
    axes = map_axes(trace, value)
    window = (kernel[0], kernel[1]) if rank == 4 else (1, kernel[0])
    shape = (sizes[1], sizes[2] if rank == 4 else 1, sizes[-1])
    number = trace.arrange(value, axes)
    op = Pool(node.name, (number,), shape, kind=kind, kernel=window, stride=window)
    result = map_result(trace, op, rank)
    return (result, None) if kind == "max" else result


@handles("upsample_nearest2d", "upsample_nearest1d")
def nearest(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """Each pixel repeated, which only a copy shows."""
    value = given(trace, a)
    made = tuple(node.meta["val"].shape)
    dims = list(value.dims)
    for d in range(2, len(dims)):
        if made[d] % value.sizes[d]:
            raise UnsupportedError(f"nearest neighbours from {value.sizes} to {made}")
        dims[d] = (*dims[d], *atoms_of(made[d] // value.sizes[d]))
    return replace(value, dims=tuple(dims))


@handles("upsample_bilinear2d")
def bilinear(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    made = tuple(node.meta["val"].shape)
    corners = bool(a["align_corners"])
    factors = list(a.get("scale_factors") or [None, None])
    scales = []
    for n, m, factor in zip(value.sizes[2:], made[2:], factors, strict=True):
        if corners:
            scales.append((n - 1) / (m - 1) if m > 1 else 0.0)
        else:
            scales.append(1 / factor if factor else n / m)
    axes = map_axes(trace, value)
    op = Resize(
        node.name,
        (trace.arrange(value, axes),),
        (size_of(axes[0]), made[2], made[3]),
        scales=(scales[0], scales[1]),
        corners=corners,
    )
    return map_result(trace, op, 4)


@handles("pixel_shuffle")
def pixel_shuffle(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    """(C r r, H, W) to (C, H r, W r)."""
    value, factor = trace.value(a["self"]), a["upscale_factor"]
    first, channels, rows, columns = value.dims
    kept, down, across = regroup(channels, (size_of(channels) // factor**2, factor, factor))
    return replace(value, dims=(first, kept, rows + down, columns + across))


@handles("pixel_unshuffle")
def pixel_unshuffle(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    """(C, H r, W r) to (C r r, H, W)."""
    value, factor = trace.value(a["self"]), a["downscale_factor"]
    first, channels, rows, columns = value.dims
    down, within = regroup(rows, (size_of(rows) // factor, factor))
    across, beside = regroup(columns, (size_of(columns) // factor, factor))
    return replace(value, dims=(first, channels + within + beside, down, across))


@handles("channel_shuffle")
def channel_shuffle(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value, groups = trace.value(a["self"]), a["groups"]
    first, channels, *rest = value.dims
    group, within = regroup(channels, (groups, size_of(channels) // groups))
    return replace(value, dims=(first, within + group, *rest))
