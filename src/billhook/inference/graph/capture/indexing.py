"""Elements by their places: constant indices, and running sums."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import fx

from billhook.inference.graph.attention import Matmul
from billhook.inference.graph.capture.atoms import Atoms, atoms_of, expand, regroup, size_of
from billhook.inference.graph.capture.shapes import joined, sliced
from billhook.inference.graph.capture.trace import Arguments, Trace, Value, constant, handles
from billhook.inference.graph.ops import UnsupportedError

__all__: list[str] = []

Run = tuple[int, int, int]  # first place, count, step
MAX_RUNS = 64  # parts that an index takes out, one after another


@handles("index")
def index(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    """x[i, j, ...] where every index is constant and varies along dimensions of its own.

    The indices are broadcast to one shape, which takes the place of the dimensions that they
    index where these are neighbours, and comes first otherwise.
    """
    value = trace.value(a["self"])
    given = {d: _indices(trace, n) for d, n in enumerate(a["indices"]) if n is not None}
    sizes = torch.broadcast_shapes(*(i.shape for i in given.values()))
    made: list[Atoms] = [() for _ in sizes]
    owned: list[int] = []
    for d, whole in given.items():
        indices = _without_repeats(whole)
        own = [len(sizes) - indices.dim() + i for i, n in enumerate(indices.shape) if n > 1]
        owned += own
        value = _taken(trace, value, d, indices.flatten().tolist())
        groups = regroup(value.dims[d], [sizes[i] for i in own], trace.batch)
        for i, group in zip(own, groups, strict=True):
            made[i] = group
    if len(set(owned)) != len(owned):
        raise UnsupportedError("indices that vary together")
    made = [dim if i in owned else atoms_of(sizes[i]) for i, dim in enumerate(made)]
    rest = [dim for d, dim in enumerate(value.dims) if d not in given]
    neighbours = all(right == left + 1 for left, right in pairwise(given))
    place = next(iter(given)) if neighbours else 0
    return replace(value, dims=(*rest[:place], *made, *rest[place:]))


@handles("index_select")
def index_select(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    value = trace.value(a["self"])
    indices = _indices(trace, a["index"]).flatten().tolist()
    return _taken(trace, value, a["dim"] % len(value.dims), indices)


@handles("gather")
def gather(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """By an index that varies along the dimension alone, or of what is the same everywhere."""
    value, sizes = trace.value(a["self"]), tuple(node.meta["val"].shape)
    if value.constant is not None and len(value.constant.unique()) == 1:
        return constant(value.constant.flatten()[:1].expand(sizes))
    dim = a["dim"] % len(value.dims)
    indices = _without_repeats(_indices(trace, a["index"]))
    if indices.numel() != indices.shape[dim]:
        raise UnsupportedError("a gather by indices that vary along several dimensions")
    value = _taken(trace, value, dim, indices.flatten().expand(sizes[dim]).tolist())
    for d, size in enumerate(sizes):
        value = sliced(trace, value, d, 0, size)
    return value


def _indices(trace: Trace, node: fx.Node) -> torch.Tensor:
    tensor = trace.value(node).constant
    if tensor is None:
        raise UnsupportedError("an index that is computed from an input")
    if tensor.dtype == torch.bool:
        raise UnsupportedError("an index of truths")
    return tensor


def _without_repeats(indices: torch.Tensor) -> torch.Tensor:
    """The indices with one element along each dimension that they do not vary along."""
    for d in range(indices.dim()):
        first = indices.narrow(d, 0, 1)
        if torch.equal(first.expand_as(indices), indices):
            indices = first
    return indices


def _taken(trace: Trace, value: Value, dim: int, places: Sequence[int]) -> Value:
    """These elements of a dimension: its arithmetic runs, one after another."""
    size = value.sizes[dim]
    places = [place % size for place in places]
    if places == list(range(size)):
        return value
    if not places:
        raise UnsupportedError("an index without elements")
    if value.constant is not None:
        made = value.constant.reshape(value.sizes).index_select(dim, torch.tensor(places))
        dims = (*value.dims[:dim], atoms_of(len(places)), *value.dims[dim + 1 :])
        return replace(value, dims=dims, constant=made)
    trace.without_batch(value.dims[dim])
    runs = _runs(places)
    if len(runs) > MAX_RUNS:
        raise UnsupportedError(f"an index of {len(runs)} runs, more than {MAX_RUNS}")
    parts = [_run(trace, value, dim, run) for run in runs]
    return parts[0] if len(parts) == 1 else joined(trace, parts, dim)


def _run(trace: Trace, value: Value, dim: int, run: Run) -> Value:
    start, count, step = run
    if step:
        return sliced(trace, value, dim, start, count, step=step)
    one = sliced(trace, value, dim, start, 1)
    return replace(one, dims=(*one.dims[:dim], atoms_of(count), *one.dims[dim + 1 :]))


def _runs(places: Sequence[int]) -> list[Run]:
    """The arithmetic runs of a list, none of which goes back.

    >>> _runs([0, 2, 4, 4, 4, 3])
    [(0, 3, 2), (4, 2, 0), (3, 1, 1)]
    """
    runs: list[Run] = []
    for place in places:
        start, count, step = runs[-1] if runs else (0, 0, 0)
        if count == 1 and place >= start:
            runs[-1] = (start, 2, place - start)
        elif count > 1 and place == start + count * step:
            runs[-1] = (start, count + 1, step)
        else:
            runs.append((place, 1, 1))
    return runs


@handles("cumsum")
def cumsum(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """Each element and those before it: the product with a triangle of ones."""
    value = trace.value(a["self"])
    dim = a["dim"] % len(value.dims)
    terms = trace.without_batch(value.dims[dim])
    if not terms:
        return value
    rest = tuple(atom for atom in trace.features(value) if atom not in terms)
    count, made = size_of(terms), atoms_of(size_of(terms))
    triangle = constant(torch.ones(count, count).tril())
    left = trace.arrange(triangle, (expand(triangle.dims[0]), (), expand(triangle.dims[1])))
    right = trace.arrange(value, (terms, (), rest))
    op = Matmul(node.name, (left, right), (count, 1, math.prod(a.size for a in rest)))
    dims = (*value.dims[:dim], made, *value.dims[dim + 1 :])
    return trace.emit(op, (made, (), rest), dims)
