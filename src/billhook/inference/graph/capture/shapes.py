"""Reshapes, transposes, slices and joins: most of them only rename what is stored."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from billhook.inference.graph.capture.atoms import (
    Atom,
    Atoms,
    atoms_of,
    expand,
    pair,
    regroup,
    size_of,
)
from billhook.inference.graph.capture.trace import Arguments, Trace, Value, constant, handles
from billhook.inference.graph.maps import Concat
from billhook.inference.graph.ops import Op, Shape, UnsupportedError
from billhook.inference.graph.rearrange import Join, Rearrange, Slice

__all__ = ["given", "joined", "selected", "sliced", "widened"]


def given(trace: Trace, a: Arguments) -> Value:
    """The tensor that an operator reads first."""
    return trace.value(a["self"] if "self" in a else a["input"])


@handles("dropout", "feature_dropout", "clone", "contiguous", "alias", "detach", "lift_fresh_copy")
def same(trace: Trace, _: fx.Node, a: Arguments) -> Any:
    if a.get("train"):
        raise UnsupportedError("dropout in training mode")
    return trace.values[a["self"] if "self" in a else a["input"]]


@handles("view", "reshape", "flatten", "unflatten", "_unsafe_view", "_reshape_alias")
def reshape(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    sizes = tuple(node.meta["val"].shape)
    atoms = tuple(atom for dim in value.dims for atom in dim)
    return replace(value, dims=tuple(regroup(atoms, sizes, trace.batch)))


@handles("permute", "transpose", "t", "numpy_T", "mT")
def permute(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    rank, order = len(value.dims), list(range(len(value.dims)))
    if "dims" in a:
        order = [d % rank for d in a["dims"]]
    elif rank > 1:
        first, second = int(a.get("dim0", 0)), int(a.get("dim1", 1))
        if "mT" in str(node.target):
            first, second = -2, -1
        order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return replace(value, dims=tuple(value.dims[d] for d in order))


@handles("unsqueeze")
def unsqueeze(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    dims = list(value.dims)
    dims.insert(a["dim"] % (len(dims) + 1), ())
    return replace(value, dims=tuple(dims))


def _numbers(given: Any) -> list[int]:
    """One dimension, or several."""
    return [given] if isinstance(given, int) else list(given)


@handles("squeeze")
def squeeze(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    chosen = a.get("dim")
    rank = len(value.dims)
    every: list[int] = list(range(rank)) if chosen is None else _numbers(chosen)
    gone = {d % rank for d in every if not expand(value.dims[d % rank])}
    if len(node.meta["val"].shape) != rank - len(gone):
        raise UnsupportedError("squeeze")
    return replace(value, dims=tuple(dim for d, dim in enumerate(value.dims) if d not in gone))


@handles("expand")
def expanded(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    return widened(given(trace, a), tuple(node.meta["val"].shape))


def widened(value: Value, sizes: Shape) -> Value:
    """A tensor repeated along what it has one element of."""
    dims = [()] * (len(sizes) - len(value.dims)) + list(value.dims)
    made = tuple(
        dim if size_of(expand(dim)) == size else atoms_of(size)
        for dim, size in zip(dims, sizes, strict=True)
    )
    return replace(value, dims=made)


@handles("repeat_interleave")
def repeat_interleave(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    if not isinstance(a.get("repeats"), int) or a.get("dim") is None:
        raise UnsupportedError("repeat_interleave")
    dims, d = list(value.dims), a["dim"] % len(value.dims)
    dims[d] = (*dims[d], *atoms_of(a["repeats"]))
    return replace(value, dims=tuple(dims))


@handles("repeat")
def repeat(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    dims = [()] * (len(a["repeats"]) - len(value.dims)) + list(value.dims)
    made = [(*atoms_of(n), *dim) for n, dim in zip(a["repeats"], dims, strict=True)]
    return replace(value, dims=tuple(made))


@handles("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def like(_: Trace, node: fx.Node, a: Arguments) -> Value:
    """Numbers that do not depend on the tensor whose shape they have."""
    made, name = node.meta["val"], str(node.target)
    number = a["fill_value"] if "full" in name else float("ones" in name)
    if isinstance(number, fx.Node):
        raise UnsupportedError("a tensor full of what is computed")
    return constant(torch.full(tuple(made.shape), number, dtype=made.dtype))


# Slices.


def sliced(trace: Trace, value: Value, dim: int, start: int, count: int, *, step: int = 1) -> Value:
    """``count`` elements of a dimension from ``start`` on, each ``step`` after the last."""
    if start == 0 and count == value.sizes[dim]:
        return value
    atoms = trace.without_batch(value.dims[dim])
    if value.constant is not None:
        index = slice(start, start + (count - 1) * step + 1, step)
        part = value.constant[(slice(None),) * dim + (index,)]
        dims = (*value.dims[:dim], atoms_of(count), *value.dims[dim + 1 :])
        return replace(value, dims=dims, constant=part)
    axes = tuple(expand(axis) for axis in value.axes)
    made = atoms_of(count)
    dims = (*value.dims[:dim], made, *value.dims[dim + 1 :])
    if step == 1 and len(axes) == 3 and axes[0] == atoms:
        shape = (count, *(size_of(axis) for axis in axes[1:]))
        op: Op = Slice("slice", (value.number,), shape, first=start)
        return trace.emit(op, (made, *axes[1:]), dims)
    if not any(_run(axis, atoms) is not None for axis in axes):
        axes = trace.default_axes(value)
        value = replace(value, number=trace.arrange(value, axes), axes=axes)
        if not any(_run(axis, atoms) is not None for axis in axes):
            raise UnsupportedError("a slice of a dimension that has no axis of its own")
    op, axes = _part(value, axes, atoms, made, (start, step))
    return trace.emit(op, axes, dims)


def _run(axis: Atoms, atoms: Atoms) -> int | None:
    """Where atoms lie in an axis, one after another."""
    for at in range(len(axis) - len(atoms) + 1):
        if axis[at : at + len(atoms)] == atoms:
            return at
    return None


def _part(
    value: Value, axes: Sequence[Atoms], atoms: Atoms, made: Atoms, span: tuple[int, int]
) -> tuple[Op, tuple[Atoms, ...]]:
    """The copy of a part: along the axis that has the atoms, fewer take their place."""
    start = [0] * len(axes)
    rows: list[tuple[int, ...]] = []
    target: list[Atoms] = []
    for a, axis in enumerate(axes):
        at = _run(axis, atoms)
        before, after = (axis, ()) if at is None else (axis[:at], axis[at + len(atoms) :])
        inner = size_of(after)
        rows += _rows(after, a, 1, 1)
        if at is not None:
            start[a] = span[0] * inner
            rows += [(atom.size, a, span[1] * inner, a, inner) for atom in made]
            rows += _rows(before, a, inner * size_of(atoms), inner * size_of(made))
            target.append((*before, *made, *after))
        else:
            rows += _rows(before, a, 1, 1)
            target.append(axis)
    parts = [tuple(part) for part in zip(*rows, strict=True)] if rows else [()] * 5
    op = Rearrange(
        "slice",
        (value.number,),
        tuple(size_of(axis) for axis in target),
        sizes=parts[0],
        from_axes=parts[1],
        from_steps=parts[2],
        to_axes=parts[3],
        to_steps=parts[4],
        start=tuple(start),
    )
    return op, tuple(target)


def _rows(atoms: Atoms, axis: int, read: int, written: int) -> list[tuple[int, ...]]:
    """How a copy steps along atoms of an axis, the fastest of which have these steps."""
    rows: list[tuple[int, ...]] = []
    for atom in reversed(atoms):
        rows.append((atom.size, axis, read, axis, written))
        read, written = read * atom.size, written * atom.size
    return rows


@handles("slice")
def slice_(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value, dim = given(trace, a), a["dim"]
    size = value.sizes[dim]
    start, _, step = slice(a["start"], a["end"], a["step"]).indices(size)
    return sliced(trace, value, dim, start, node.meta["val"].shape[dim], step=step)


@handles("narrow")
def narrow(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    dim = a["dim"] % len(value.dims)
    return sliced(trace, value, dim, a["start"] % value.sizes[dim], a["length"])


@handles("select")
def select(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    dim = a["dim"] % len(value.dims)
    return selected(trace, value, dim, a["index"] % value.sizes[dim])


def selected(trace: Trace, value: Value, dim: int, index: int) -> Value:
    """One element of a dimension, without that dimension."""
    part = sliced(trace, value, dim, index, 1)
    return replace(part, dims=(*part.dims[:dim], *part.dims[dim + 1 :]))


@handles("unbind")
def unbind(trace: Trace, _: fx.Node, a: Arguments) -> tuple[Value, ...]:
    value = given(trace, a)
    dim = a["dim"] % len(value.dims)
    return tuple(selected(trace, value, dim, i) for i in range(value.sizes[dim]))


@handles("split", "chunk", "split_with_sizes", "tensor_split")
def split(trace: Trace, node: fx.Node, a: Arguments) -> tuple[Value, ...]:
    value = given(trace, a)
    dim = a["dim"] % len(value.dims)
    parts, start = [], 0
    for made in node.meta["val"]:
        parts.append(sliced(trace, value, dim, start, made.shape[dim]))
        start += made.shape[dim]
    return tuple(parts)


@handles("roll")
def roll(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = given(trace, a)
    for shift, d in zip(a["shifts"], a["dims"], strict=True):
        dim = d % len(value.dims)
        size = value.sizes[dim]
        first = -shift % size
        if first:
            parts = [
                sliced(trace, value, dim, first, size - first),
                sliced(trace, value, dim, 0, first),
            ]
            value = joined(trace, parts, dim)
    return value


# Joins.


@handles("cat", "concat", "concatenate")
def cat(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    parts = [trace.value(t) for t in a["tensors"]]
    return joined(trace, parts, a["dim"] % len(parts[0].dims))


@handles("stack")
def stack(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    parts = [trace.value(t) for t in a["tensors"]]
    dim = a["dim"] % (len(parts[0].dims) + 1)
    wide = [replace(p, dims=(*p.dims[:dim], (), *p.dims[dim:])) for p in parts]
    return joined(trace, wide, dim)


def joined(trace: Trace, parts: Sequence[Value], dim: int) -> Value:
    """Tensors one after another along a dimension."""
    first = next((p for p in parts if p.constant is None), parts[0])
    trace.without_batch(first.dims[dim])
    made = atoms_of(sum(p.sizes[dim] for p in parts))
    dims = (*first.dims[:dim], made, *first.dims[dim + 1 :])
    axes, place = _axis_of(trace, first, dim)
    numbers = []
    for part in parts:
        own = trace.one_sample(part, [() if i == dim else d for i, d in enumerate(first.dims)])
        found: dict[Atom, Atom] = {}
        for i, theirs in enumerate(first.dims):
            if i != dim and expand(theirs) != (trace.batch,):
                found |= pair(theirs, own.dims[i])
        wanted = [tuple(found.get(atom, atom) for atom in expand(axis)) for axis in axes]
        wanted[place] = expand(own.dims[dim])
        numbers.append(trace.arrange(own, wanted))
    result = [*axes[:place], made, *axes[place + 1 :]]
    shape = tuple(size_of(expand(axis)) for axis in result)
    inputs = tuple(numbers)
    op: Op = Join("join", inputs, shape, axis=place)
    if place == 0 and len(shape) == 3:
        op = Concat("concat", inputs, shape)
    return trace.emit(op, result, dims)


def _axis_of(trace: Trace, value: Value, dim: int) -> tuple[list[Atoms], int]:
    """Axes of which one is a dimension's alone."""
    atoms = expand(value.dims[dim])
    axes = [expand(axis) for axis in value.axes]
    whole = all(atom in [a for axis in axes for a in axis] for atom in trace.features(value))
    if whole and value.constant is None and atoms and atoms in axes:
        return axes, axes.index(atoms)
    rest = tuple(a for i, d in enumerate(value.dims) if i != dim for a in expand(d))
    kept = tuple(a for a in rest if a is not trace.batch)
    if not kept:
        return [atoms], 0
    if dim == len(value.dims) - 1:  # of sequences (N, T, F) the features, which are channels
        return [atoms, (), kept], 0
    return [kept, (), atoms], 2
