"""What the operations of a program say, by torch in fp64: a second reading of each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["dense_weight", "reference"]

T = torch.Tensor


def reference(graph: Any, inputs: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """What the operations say, by torch in fp64."""
    values = {
        -1 - k: x.movedim(each.axis, 0).double().reshape(2, *each.form)
        for k, (x, each) in enumerate(zip(inputs, graph.inputs, strict=True))
    }
    for index, op in enumerate(graph.ops):
        values[index] = _run(op, [values[i] for i in op.inputs])
    return values


def dense_weight(weight: Any) -> torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return weight.double()
    csr = weight.csr
    dense = torch.zeros(csr.shape, dtype=torch.float64)
    rows = torch.from_numpy(csr.row_ptr).diff()
    row = torch.repeat_interleave(torch.arange(csr.shape[0]), rows)
    column = torch.from_numpy(csr.column.astype("int64"))
    dense[row, column] = torch.from_numpy(csr.value).double()
    return dense.reshape(weight.shape)


def _run(op: Any, given: list[T]) -> T:
    kind = type(op).__name__
    y = _KINDS[kind](op, given)
    clamp = {"relu": (0.0, None), "relu6": (0.0, 6.0)}.get(op.activation)
    return y if clamp is None else y.clamp(*clamp)


def _bias(op: Any) -> T | None:
    return None if op.bias is None else op.bias.double()


def _conv(op: Any, given: list[T]) -> T:
    top, left, bottom, right = op.padding
    x = F.pad(given[0], (left, right, top, bottom))
    return F.conv2d(x, dense_weight(op.weight), _bias(op), op.stride, 0, op.dilation, op.groups)


FUNCTIONS: dict[str, Callable[[T, float, float], T]] = {
    "affine": lambda x, a, b: a * x + b,
    "clamp": lambda x, a, b: torch.minimum(torch.maximum(x, x.new_tensor(a)), x.new_tensor(b)),
    "leaky_relu": lambda x, a, _: torch.where(x > 0, x, a * x),
    "hardswish": lambda x, *_: F.hardswish(x),
    "hardsigmoid": lambda x, *_: F.hardsigmoid(x),
    "sigmoid": lambda x, *_: torch.sigmoid(x),
    "silu": lambda x, *_: F.silu(x),
    "tanh": lambda x, *_: torch.tanh(x),
    "gelu": lambda x, *_: F.gelu(x),
    "gelu_tanh": lambda x, *_: F.gelu(x, approximate="tanh"),
    "exp": lambda x, *_: torch.exp(x),
    "elu": lambda x, a, _: torch.where(x > 0, x, a * torch.expm1(x)),
    "abs": lambda x, *_: x.abs(),
    "sqrt": lambda x, *_: x.sqrt(),
    "reciprocal": lambda x, *_: 1 / x,
    "mish": lambda x, *_: F.mish(x),
    "log": lambda x, *_: torch.log(x),
    "equal": lambda x, a, _: (x.float() == a).double(),
    "choose": lambda x, a, b: torch.where(x != 0, x.new_tensor(a), x.new_tensor(b)),
}

BINARY: dict[str, Callable[[T, T, float], T]] = {
    "add": lambda x, y, _: x + y,
    "sub": lambda x, y, _: x - y,
    "mul": lambda x, y, _: x * y,
    "div": lambda x, y, _: x / y,
    "maximum": lambda x, y, _: torch.maximum(x, y),
    "minimum": lambda x, y, _: torch.minimum(x, y),
    "prelu": lambda x, y, _: torch.where(x > 0, x, y * x),
    "masked_fill": lambda x, y, a: torch.where(y != 0, x.new_tensor(a), x),
    "lt": lambda x, y, _: (x < y).double(),
    "le": lambda x, y, _: (x <= y).double(),
    "eq": lambda x, y, _: (x == y).double(),
    "rsub": lambda x, y, _: y - x,
    "rdiv": lambda x, y, _: y / x,
}


def _binary(op: Any, given: list[T]) -> T:
    x, y = given
    if y.dim() == 2 and x.dim() == 4:
        y = y[:, :, None, None]
    return BINARY[op.function](x, y, op.parameters[0])


def _rearrange(op: Any, given: list[T]) -> T:
    x = given[0]
    places = torch.meshgrid(*(torch.arange(n) for n in op.sizes), indexing="ij") if op.sizes else ()

    def indices(axes: Any, steps: Any, start: Any) -> tuple[T, ...]:
        found = [torch.full(op.sizes, first) for first in start]
        for place, axis, step in zip(places, axes, steps, strict=True):
            found[axis] = found[axis] + place * step
        return tuple(found)

    y = torch.zeros(2, *op.shape, dtype=x.dtype)
    read: tuple[Any, ...] = indices(op.from_axes, op.from_steps, op.start)
    written: tuple[Any, ...] = indices(op.to_axes, op.to_steps, (0,) * len(op.shape))
    y[(slice(None), *written)] = x[(slice(None), *read)]
    return y


def _pad(op: Any, given: list[T]) -> T:
    y = given[0].new_full((2, *op.shape), float(op.value))
    sides = zip(op.before, given[0].shape[1:], strict=True)
    inside: tuple[Any, ...] = (slice(None), *(slice(b, b + n) for b, n in sides))
    y[inside] = given[0]
    return y


def _normalise(op: Any, given: list[T], dims: tuple[int, ...]) -> T:
    x = given[0]
    if op.centred:
        x = x - x.mean(dims, keepdim=True)
    size: T = (x.square().mean(dims, keepdim=True) + op.eps).sqrt()
    return x / size


def _affine(op: Any, y: T, given: list[T]) -> T:
    rest = [v.view(2, -1, *[1] * (y.dim() - 2)) for v in given[1:]]
    y = y * rest[0] if op.scaled else y
    return y + rest[-1] if op.shifted else y


def _group_norm(op: Any, given: list[T]) -> T:
    x = given[0].view(2, op.groups, -1)
    return _affine(op, _normalise(op, [x], (2,)).view_as(given[0]), given)


def _reduce(op: Any, given: list[T]) -> T:
    x = given[0]
    kinds: dict[str, Callable[..., T]]
    kinds = {"mean": x.mean, "sum": x.sum, "max": x.amax, "min": x.amin}
    return kinds[op.kind](1, keepdim=True)


def _resize(op: Any, given: list[T]) -> T:
    y = given[0]
    for dim, scale in ((2, op.scales[0]), (3, op.scales[1])):
        size, offset = y.shape[dim], 0.0 if op.corners else 0.5
        at = scale * (torch.arange(op.shape[dim - 1], dtype=torch.float64) + offset) - offset
        at = at.clamp(0, size - 1)
        first = at.long()
        second = (first + 1).clamp(max=size - 1)
        shape = [-1 if d == dim else 1 for d in range(4)]
        share = (at - first).view(shape)
        y = y.index_select(dim, first) * (1 - share) + y.index_select(dim, second) * share
    return y


def _matmul(op: Any, given: list[T]) -> T:
    left, right = (x.view(2, op.groups, -1, *x.shape[2:]) for x in given)
    rows, terms = {"CW": (2, 4), "WC": (4, 2), "HW": (3, 4), "WH": (4, 3)}[op.left]
    other = 9 - rows - terms
    a = left.movedim((rows, terms, other), (2, 3, 4)).squeeze(4)
    b = right.squeeze(2) if op.by_rows else right.squeeze(3)
    return (a @ b).reshape(2, *op.shape)


def _attention(op: Any, given: list[T]) -> T:
    heads = [op.heads, op.key_heads, op.key_heads]
    q, k, v = (
        x.view(2, n, -1, x.shape[3]).transpose(2, 3) for x, n in zip(given, heads, strict=False)
    )
    k, v = (x.repeat_interleave(op.heads // op.key_heads, 1) for x in (k, v))
    scores = op.scale * (q @ k.transpose(2, 3))
    if op.masked:
        scores = scores + given[3].transpose(2, 3)
    if op.causal:
        later = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return (torch.softmax(scores, 3) @ v).transpose(2, 3).reshape(2, *op.shape)


def _embed(op: Any, given: list[T]) -> T:
    rows = given[1][0, 0][given[0].long()]
    return rows.transpose(1, 2).reshape(2, *op.shape)


def _recurrent(op: Any, given: list[T]) -> T:
    gates = given[0].view(2, given[0].shape[1], -1)
    weight, units = dense_weight(op.weight), op.weight.shape[1]
    h = given[1] if op.started else gates.new_zeros(2, units)
    c = given[2] if op.started and op.cell == "lstm" else gates.new_zeros(2, units)
    made: dict[int, T] = {}
    steps = range(gates.shape[2])
    for t in reversed(steps) if op.reverse else steps:
        own = F.linear(h, weight, _bias(op))
        if op.cell == "lstm":
            i, f, g, o = (gates[:, :, t] + own).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            (r, z, n), (ur, uz, un) = gates[:, :, t].chunk(3, 1), own.chunk(3, 1)
            z = torch.sigmoid(z + uz)
            h = (1 - z) * torch.tanh(n + torch.sigmoid(r + ur) * un) + z * h
        made[t] = torch.cat([h, c], 1) if op.cells else h
    return torch.stack([made[t] for t in steps], 2).reshape(2, *op.shape)


_KINDS: dict[str, Callable[[Any, list[T]], T]] = {
    "Conv": _conv,
    "Linear": lambda op, g: F.linear(g[0], dense_weight(op.weight), _bias(op)),
    "Pool": lambda op, g: _pool(op, g[0]),
    "Concat": lambda _, g: torch.cat(g, 1),
    "Add": lambda _, g: g[0] + g[1],
    "Mean": lambda _, g: g[0].mean((2, 3)),
    "Flatten": lambda _, g: g[0].flatten(1),
    "Activation": lambda _, g: g[0],
    "Elementwise": lambda op, g: FUNCTIONS[op.function](g[0], *op.parameters),
    "Binary": _binary,
    "Constant": lambda op, _: op.tensor.double().expand(2, *op.shape),
    "Rearrange": _rearrange,
    "Slice": lambda op, g: g[0][:, op.first : op.first + op.shape[0]],
    "Pad": _pad,
    "Join": lambda op, g: torch.cat(g, 1 + op.axis),
    "LayerNorm": lambda op, g: _affine(op, _normalise(op, g, (1,)), g),
    "GroupNorm": _group_norm,
    "Softmax": lambda op, g: (torch.log_softmax if op.logarithm else torch.softmax)(
        g[0], 1 + op.axis
    ),
    "Reduce": _reduce,
    "Resize": _resize,
    "Matmul": _matmul,
    "Attention": _attention,
    "Cast": lambda _, g: g[0],
    "Embed": _embed,
    "Recurrent": _recurrent,
}


def _pool(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Rounded up, and cut to the operation's shape where it is rounded down."""
    if op.kind == "max":
        y = F.max_pool2d(x, op.kernel, op.stride, op.padding, ceil_mode=True)
    else:
        y = F.avg_pool2d(x, op.kernel, op.stride, op.padding, True, op.count_padding)
    y = y[:, :, : op.shape[1], : op.shape[2]]
    if op.kind == "max" or not op.count_padding:
        return y
    # torch leaves what is beyond the padding out of the window's size, this pool counts it.
    top, left = op.padding
    room = [s * n + k for s, n, k in zip(op.stride, op.shape[1:], op.kernel, strict=True)]
    padded = F.pad(x, (left, room[1], top, room[0]))
    sums = F.avg_pool2d(padded, op.kernel, op.stride)
    return sums[:, :, : op.shape[1], : op.shape[2]]
