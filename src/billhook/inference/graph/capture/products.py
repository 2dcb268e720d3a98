"""Linear layers, products of computed tensors, attention, and what goes with them."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from billhook.inference.graph.attention import Attention, Matmul
from billhook.inference.graph.capture.atoms import Atom, Atoms, atoms_of, expand, pair, size_of
from billhook.inference.graph.capture.maps import map_axes
from billhook.inference.graph.capture.pointwise import unary
from billhook.inference.graph.capture.trace import (
    Arguments,
    Trace,
    Value,
    constant,
    handles,
    operator_of,
)
from billhook.inference.graph.conv import Conv
from billhook.inference.graph.linear import Linear
from billhook.inference.graph.maps import Mean
from billhook.inference.graph.ops import Op, UnsupportedError
from billhook.inference.graph.reduce import GroupNorm, LayerNorm, Reduce, Softmax

__all__ = ["linear_layer"]


def by_features(trace: Trace, value: Value, features: Atoms) -> Value:
    """The tensor with these atoms as the channels of maps whose pixels are all others; a vector
    where there are no others."""
    rest = tuple(atom for atom in trace.features(value) if atom not in features)
    stored = tuple(expand(axis) for axis in value.axes)
    maps = value.constant is None and bool(rest) and len(stored) == 3
    if maps and stored[0] == features and set(stored[1] + stored[2]) == set(rest):
        return value
    axes = (features, (), rest) if rest else (features,)
    return replace(value, number=trace.arrange(value, axes), axes=axes, constant=None)


def linear_layer(
    trace: Trace, name: str, value: Value, weight: torch.Tensor, bias: torch.Tensor | None
) -> Value:
    """y[..., r] = bias[r] + sum over k of weight[r, k] x[..., k]: of several positions a 1x1
    convolution."""
    value = by_features(trace, value, trace.without_batch(value.dims[-1]))
    out = atoms_of(len(weight))
    axes = (out, *value.axes[1:])
    shape = tuple(size_of(expand(axis)) for axis in axes)
    op: Op
    if len(axes) == 1:
        op = Linear(name, (value.number,), shape, weight=weight, bias=bias)
    else:
        wide = weight.view(*weight.shape, 1, 1)
        op = Conv(name, (value.number,), shape, weight=wide, bias=bias)
    return trace.emit(op, axes, [*value.dims[:-1], out])


@handles("linear")
def linear(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    weight, bias = trace.weight(a["weight"]), trace.weight(a["bias"])
    assert weight is not None
    name = trace.layer_name(node, a["weight"])
    return linear_layer(trace, name, trace.value(a["input"]), weight, bias)


@handles("addmm")
def addmm(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """As transformers' Conv1D calls it."""
    weight, bias = trace.weight(a["mat2"]), trace.weight(a["self"])
    assert weight is not None
    if (a["beta"], a["alpha"]) != (1, 1) or bias is None or bias.dim() != 1:
        raise UnsupportedError("addmm with factors")
    name = trace.layer_name(node, a["mat2"])
    return linear_layer(trace, name, trace.value(a["mat1"]), weight.t().contiguous(), bias)


@handles("matmul", "mm", "bmm")
def matmul(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    first, second = trace.value(a["self"]), trace.value(a.get("other", a.get("mat2")))
    if second.constant is not None and second.constant.dim() == 2:
        weight = second.constant.t().contiguous()
        name = trace.layer_name(node, a["other"] if "other" in a else a["mat2"])
        return linear_layer(trace, name, first, weight, None)
    if len(first.dims) < 2 or len(second.dims) < 2:
        raise UnsupportedError("a product of vectors")
    return _product(trace, node, first, second)


def _product(trace: Trace, node: fx.Node, first: Value, second: Value) -> Value:
    """(..., m, k) times (..., k, n): the one whose own dimension lies along columns is read by
    vectors, the other number by number."""
    own, theirs = _groups(trace, first, second)
    pair(first.dims[-1], second.dims[-2])
    m, k = expand(first.dims[-2]), expand(first.dims[-1])
    terms, n = expand(second.dims[-2]), expand(second.dims[-1])
    if _last_axis(first) != m and second.constant is None and _last_axis(second) == n:
        left, right = (first, own, m, k), (second, theirs, terms, n)
    else:
        left, right = (second, theirs, n, terms), (first, own, k, m)
    value, form = _left_form(trace, *left)
    number, by_rows = _right_form(trace, *right)
    if set(m) & set(n):  # x times its transpose
        n = renewed(n)
    made, columns = (m, n) if right[0] is second else (n, m)
    count = size_of(own)
    shape: tuple[int, ...] = (count * size_of(made), 1, size_of(columns))
    axes: tuple[Atoms, ...] = (own + made, (), columns)
    if form != "CW":
        shape, axes = (count, size_of(made), size_of(columns)), (own, made, columns)
    op = Matmul(node.name, (value, number), shape, groups=count, left=form, by_rows=by_rows)
    return trace.emit(op, axes, [*first.dims[:-2], m, n])


def renewed(atoms: Atoms) -> Atoms:
    """Other atoms of the same sizes."""
    return tuple(Atom(atom.size) for atom in atoms)


def _last_axis(value: Value) -> Atoms:
    return expand(value.axes[-1]) if len(value.axes) == 3 else ()


def _groups(trace: Trace, first: Value, second: Value) -> tuple[Atoms, Atoms]:
    """The dimensions before the last two, of both."""
    dims, others = first.dims[:-2], second.dims[:-2]
    if len(dims) != len(others):
        raise UnsupportedError("a product of tensors of different ranks")
    own: list[Atom] = []
    found: dict[Atom, Atom] = {}
    for mine, theirs in zip(dims, others, strict=True):
        if expand(mine) == expand(theirs) == (trace.batch,):
            continue
        if size_of(expand(mine)) != size_of(expand(theirs)):
            raise UnsupportedError("a product that is broadcast")
        found |= pair(mine, theirs)
    for mine in dims:
        own += [atom for atom in expand(mine) if atom is not trace.batch]
    return tuple(own), tuple(found[atom] for atom in own)


def _left_form(
    trace: Trace, value: Value, groups: Atoms, rows: Atoms, terms: Atoms
) -> tuple[int, str]:
    """The value and how its rows and terms lie, copied if it must be."""
    made: dict[str, tuple[Atoms, ...]] = {
        "CW": (groups + rows, (), terms),
        "WC": (groups + terms, (), rows),
        "HW": (groups, rows, terms),
        "WH": (groups, terms, rows),
    }
    stored = tuple(expand(axis) for axis in value.axes)
    form = next((f for f, axes in made.items() if axes == stored and value.constant is None), "CW")
    return trace.arrange(value, made[form]), form


def _right_form(
    trace: Trace, value: Value, groups: Atoms, terms: Atoms, columns: Atoms
) -> tuple[int, bool]:
    stored = tuple(expand(axis) for axis in value.axes)
    if stored == (groups, terms, columns) and value.constant is None:
        return value.number, True
    return trace.arrange(value, (groups + terms, (), columns)), False


@handles("scaled_dot_product_attention")
def attention(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    query, key, value = (trace.value(a[name]) for name in ("query", "key", "value"))
    if a["dropout_p"]:
        raise UnsupportedError("attention with dropout")
    if len({len(v.dims) for v in (query, key, value)}) != 1 or len(query.dims) not in (3, 4):
        raise UnsupportedError("attention on other dimensions than (N, heads, tokens, features)")
    inputs = [_heads_first(trace, v) for v in (query, key, value)]
    heads, queries = _heads(query), expand(query.dims[-2])
    made, keys = expand(value.dims[-1]), expand(key.dims[-2])
    scale = a["scale"] if a.get("scale") is not None else 1 / math.sqrt(query.sizes[-1])
    shape = (size_of(heads) * size_of(made), 1, size_of(queries))
    if a["attn_mask"] is not None:
        keys = renewed(keys)  # which may be the queries
        dims = [*query.dims[:-1], keys]
        inputs.append(_mask(trace, node, a["attn_mask"], dims, (heads, keys, queries)))
    op = Attention(
        node.name,
        tuple(inputs),
        shape,
        heads=size_of(heads),
        key_heads=size_of(_heads(key)),
        scale=float(scale),
        causal=bool(a["is_causal"]),
        masked=len(inputs) > 3,
    )
    return trace.emit(op, (heads + made, (), queries), [*query.dims[:-1], made])


def _heads_first(trace: Trace, value: Value) -> int:
    """The heads' features as channels, tokens as columns."""
    features, tokens = expand(value.dims[-1]), expand(value.dims[-2])
    return trace.arrange(value, (_heads(value) + features, (), tokens))


def _heads(value: Value) -> Atoms:
    return expand(atom for dim in value.dims[1:-2] for atom in dim)


def _mask(
    trace: Trace, node: fx.Node, given: Any, dims: list[Atoms], axes: tuple[Atoms, Atoms, Atoms]
) -> int:
    """What is added to the scores."""
    value = trace.value(given)
    if given.meta["val"].dtype == torch.bool:
        if value.constant is not None:
            added = torch.zeros_like(value.constant, dtype=torch.float32)
            value = replace(value, constant=added.masked_fill(~value.constant.bool(), -math.inf))
        else:
            value = unary(trace, node.name, value, "choose", 0.0, -math.inf)
    return trace.arrange(*trace.beside(value, dims, axes))


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", "special_softmax")
def softmax(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = trace.value(a["self"])
    dim = trace.without_batch(value.dims[a["dim"] % len(value.dims)])
    axes = tuple(expand(axis) for axis in value.axes)
    if dim not in axes or not dim:
        value = by_features(trace, value, dim)
        axes = tuple(expand(axis) for axis in value.axes)
    shape = tuple(size_of(axis) for axis in axes)
    log = "log" in str(node.target)
    op = Softmax(node.name, (value.number,), shape, axis=axes.index(dim), logarithm=log)
    return trace.emit(op, axes, value.dims)


def _parameters(trace: Trace, a: Arguments) -> tuple[list[int], bool, bool]:
    """The vectors that a normalised tensor is multiplied by and shifted by."""
    given = [trace.weight(a.get("weight")), trace.weight(a.get("bias"))]
    numbers = []
    for tensor in given:
        if tensor is not None:
            value = constant(tensor.flatten())
            numbers.append(trace.arrange(value, (value.atoms,)))
    return numbers, given[0] is not None, given[1] is not None


@handles("layer_norm", "rms_norm")
def layer_norm(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value, rank = trace.value(a["input"]), len(a["normalized_shape"])
    features = tuple(atom for dim in value.dims[-rank:] for atom in trace.without_batch(dim))
    value = by_features(trace, value, features)
    shape = tuple(size_of(expand(axis)) for axis in value.axes)
    numbers, scaled, shifted = _parameters(trace, a)
    eps = a.get("eps")
    op = LayerNorm(
        node.name,
        (value.number, *numbers),
        shape,
        eps=float(torch.finfo(torch.float32).eps if eps is None else eps),
        centred="rms" not in str(node.target),
        scaled=scaled,
        shifted=shifted,
    )
    return trace.emit(op, value.axes, value.dims)


@handles("group_norm", "instance_norm")
def group_norm(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = trace.value(a["input"])
    if a.get("running_mean") is not None and not a.get("use_input_stats", True):
        raise UnsupportedError("instance norm with running statistics")
    axes = map_axes(trace, value)
    shape = tuple(size_of(axis) for axis in axes)
    number = trace.arrange(value, axes)
    numbers, scaled, shifted = _parameters(trace, a)
    op = GroupNorm(
        node.name,
        (number, *numbers),
        shape,
        eps=float(a["eps"]),
        scaled=scaled,
        shifted=shifted,
        groups=a.get("num_groups", shape[0]),
    )
    return trace.emit(op, axes, value.dims)


@handles("mean", "sum", "amax", "amin")
def reduction(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    name = operator_of(node)
    kind = {"amax": "max", "amin": "min"}.get(name, name)
    if a.get("dtype") is not None:
        raise UnsupportedError("a reduction to another type")
    value = trace.value(a["self"])
    rank = len(value.dims)
    given = a.get("dim")
    chosen = range(rank) if given in (None, []) else [given] if isinstance(given, int) else given
    gone = sorted({d % rank for d in chosen})
    atoms = tuple(atom for d in gone for atom in trace.without_batch(value.dims[d]))
    keep = bool(a.get("keepdim"))
    dims = [() if d in gone else dim for d, dim in enumerate(value.dims) if keep or d not in gone]
    if not atoms:
        return replace(value, dims=tuple(dims))
    return _reduced(trace, (node.name, kind), value, atoms, dims)


def _reduced(
    trace: Trace, kind: tuple[str, str], value: Value, atoms: Atoms, dims: list[Atoms]
) -> Value:
    """The mean of pixels is a vector; other reductions are over channels."""
    name, how = kind
    rest = tuple(atom for atom in trace.features(value) if atom not in atoms)
    stored = tuple(expand(axis) for axis in value.axes)
    pixels = len(stored) == 3 and set(stored[1] + stored[2]) == set(atoms)
    if how == "mean" and rest and (not pixels or set(stored[0]) != set(rest)):
        pixels = len(stored) != 3 or set(stored[0]) != set(atoms)
        stored = (rest, (), atoms) if pixels else stored
    if how == "mean" and rest and pixels:
        number = trace.arrange(value, stored)
        op: Op = Mean(name, (number,), (size_of(stored[0]),))
        return trace.emit(op, (stored[0],), dims)
    if len(stored) != 3 or set(stored[0]) != set(atoms):
        stored = (atoms, (), rest)
    number = trace.arrange(value, stored)
    axes = ((), *stored[1:])
    op = Reduce(name, (number,), (1, *(size_of(axis) for axis in stored[1:])), kind=how)
    return trace.emit(op, axes, dims)
