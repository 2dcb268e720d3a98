"""Whether the operations of a network fit together: native code trusts them with addresses.

Programs from files and plans from users are checked here; capture makes sound ones.
"""

from collections.abc import Iterator, Mapping

import torch

from billhook.inference.graph.ops import INPUT, Conv, Linear, Op, Other, Pool, Shape
from billhook.inference.kernels import ACTIVATIONS
from billhook.inference.network.depthwise import has_kernel
from billhook.inference.plan import Choice
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS

__all__ = ["check_choices", "check_ops"]

# Beyond these no network goes, and placing the operations would take long or recurse deep.
MAX_OPS = 4096
MAX_INPUTS = 16384  # of all operations together
MAX_CONCAT_DEPTH = 256  # concatenations within concatenations
# Sides of windows and the like. Together with the shapes they keep every product below 2**63.
MAX_SIDE = 2**24
MAX_CONV_SIDE = 2**15
MAX_POOL_MARGIN = 4096  # how much wider than its map a pool's padding may be
MAX_POOL_OVERLAP = 4096  # windows that one pixel is in, along one side


def check_ops(ops: list[Op], input_shape: Shape) -> None:
    """Raises ValueError unless every operation's sizes follow from those of what it reads.

    >>> check_ops([Conv("c", (INPUT,), (4, 9, 9), weight=torch.ones(4, 3, 1, 1))], (3, 8, 8))
    Traceback (most recent call last):
    ...
    ValueError: operation 0, 'c', makes (4, 9, 9) where (4, 8, 8) follows
    """
    shapes = {INPUT: tuple(input_shape)}
    inputs = sum(len(op.inputs) for op in ops)
    small = 0 < len(ops) <= MAX_OPS and inputs <= MAX_INPUTS
    if not small or len(input_shape) != 3 or not _counts(*input_shape):
        raise ValueError(
            f"{len(ops)} operations with {inputs} inputs on an input of {tuple(input_shape)}"
        )
    depth = {INPUT: 0}
    for index, op in enumerate(ops):
        where = f"operation {index}, {op.name!r},"
        if not isinstance(op.name, str):
            raise ValueError(f"{where} has a name that is not a string")
        if not op.inputs or any(type(v) is not int or v not in shapes for v in op.inputs):
            raise ValueError(f"{where} reads {op.inputs}")
        if op.activation not in (ACTIVATIONS if _activates(op) else ("none",)):
            raise ValueError(f"{where} has the activation {op.activation!r}")
        try:
            follows = _result(op, [shapes[value] for value in op.inputs])
        except ValueError as error:
            raise ValueError(f"{where} {error}") from error
        # A vector may be called (F, 1, 1) too.
        fits = op.shape in (follows, (*follows, 1, 1)[:3]) and _counts(*follows, *op.shape)
        if not fits:
            raise ValueError(f"{where} makes {op.shape} where {follows} follows")
        shapes[index] = follows
        depth[index] = _concat_depth(op, depth)
        _require(depth[index] <= MAX_CONCAT_DEPTH, f"{where} joins {depth[index]} times over")


def _counts(*numbers: object, least: int = 1, most: int = 2**40) -> bool:
    return all(type(n) is int and least <= n <= most for n in numbers)


def _activates(op: Op) -> bool:
    """Whether an activation may be part of the operation."""
    return isinstance(op, Conv | Linear) or (
        isinstance(op, Other) and op.kind in ("add", "activation")
    )


def _concat_depth(op: Op, depth: Mapping[int, int]) -> int:
    """How many concatenations lie within each other where this one is the outermost."""
    joins = isinstance(op, Other) and op.kind == "concat"
    return 1 + max(depth[value] for value in op.inputs) if joins else 0


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _result(op: Op, sources: list[Shape]) -> Shape:
    """The shape that follows from the operation's settings and what it reads."""
    if isinstance(op, Linear):
        source, shape = _one(sources, 1), tuple(op.weight.shape)
        fits = len(shape) == 2 and _counts(*shape) and shape[1] == source[0]
        _require(fits, f"cannot multiply {source}")
        return (op.weight.shape[0],)
    if isinstance(op, Conv):
        return _conv_result(op, _one(sources, 3))
    if isinstance(op, Pool):
        return _pool_result(op, _one(sources, 3))
    assert isinstance(op, Other)
    return _other_result(op, sources)


def _other_result(op: Other, sources: list[Shape]) -> Shape:
    if op.kind == "flatten":
        _require(len(sources) == 1, "flattens several values")
        return (torch.Size(sources[0]).numel(),)
    _require(all(len(source) == 3 for source in sources), f"works on {sources}")
    if op.kind == "concat":
        _require(len({source[1:] for source in sources}) == 1, f"joins {sources}")
        return (sum(source[0] for source in sources), *sources[0][1:])
    _require(op.kind in ("add", "mean", "activation"), f"is of no known kind, {op.kind!r}")
    _require(len(sources) == (2 if op.kind == "add" else 1), f"takes {sources}")
    _require(len(set(sources)) == 1, f"adds {sources}")
    return sources[0][:1] if op.kind == "mean" else sources[0]


def _one(sources: list[Shape], dimensions: int) -> Shape:
    _require(len(sources) == 1 and len(sources[0]) == dimensions, f"cannot read {sources}")
    return sources[0]


def _conv_result(conv: Conv, source: Shape) -> Shape:
    weight = tuple(conv.weight.shape)
    _require(
        len(weight) == 4
        and _counts(*weight[:2], conv.groups)
        and _counts(*weight[2:], *conv.stride, *conv.dilation, most=MAX_CONV_SIDE)
        and _counts(*conv.padding, least=0, most=MAX_CONV_SIDE)
        and (len(conv.padding), len(conv.stride), len(conv.dilation)) == (4, 2, 2)
        and weight[0] % conv.groups == 0
        and weight[1] * conv.groups == source[0],
        f"cannot filter {source} with {weight}",
    )
    sides = (
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, before, after, d, k, s in zip(
            *(source[1:], conv.padding[:2], conv.padding[2:]),
            *(conv.dilation, weight[2:], conv.stride),
            strict=True,
        )
    )
    return (weight[0], *sides)


def _pool_result(pool: Pool, source: Shape) -> Shape:
    """The pool's own shape, if it fits: each side rounded down or up, as torch does."""
    _require(
        pool.kind in ("max", "average")
        and isinstance(pool.count_padding, bool)
        and (len(pool.kernel), len(pool.stride), len(pool.padding)) == (2, 2, 2)
        and _counts(*pool.kernel, *pool.stride, most=MAX_SIDE)
        and _counts(*pool.padding, least=0, most=MAX_SIDE)
        and len(pool.shape) == 3
        and _counts(*pool.shape),
        f"cannot pool {source}",
    )
    sides = zip(pool.shape[1:], source[1:], pool.kernel, pool.stride, pool.padding, strict=True)
    for out, n, kernel, stride, padding in sides:
        _require(2 * padding <= kernel <= n + 2 * padding, "pools beyond the map")
        _require(padding <= n + MAX_POOL_MARGIN, f"pads {n} pixels by {padding}")
        whole, rest = divmod(n + 2 * padding - kernel, stride)
        up = int(rest > 0 and (whole + 1) * stride < n + padding)  # no window is all padding
        _require(out in (whole + 1, whole + 1 + up), "pools beyond the map")
        _require(out == 1 or kernel <= MAX_POOL_OVERLAP * stride, "pools each pixel too often")
    return (source[0], *pool.shape[1:])


def check_choices(ops: list[Op], choices: Mapping[str, Choice]) -> None:
    """Raises ValueError unless the plan has one choice for each layer, a kernel that can run it."""
    layers = [op for op in ops if isinstance(op, Conv | Linear)]
    different = sorted({op.name for op in layers} ^ set(choices))
    if different or len({op.name for op in layers}) != len(layers):
        raise ValueError(f"the plan and the model differ in layer {[*different, ''][0]!r}")
    for index, op in enumerate(ops):
        if not isinstance(op, Conv | Linear):
            continue
        kernel = choices[op.name].kernel
        if kernel not in _kernels(ops, index, op, choices):
            raise ValueError(f"the plan has {op.name!r} run by {kernel!r}, which cannot")


def _kernels(
    ops: list[Op], index: int, op: Conv | Linear, choices: Mapping[str, Choice]
) -> Iterator[str]:
    yield "dense"
    if isinstance(op, Linear):
        if op.weight.shape[1] <= MAX_LANE_COLUMNS:
            yield "sparse"
        return
    yield "spmm"
    if op.groups == 1:
        yield "spmm_packed"
    if has_kernel(op):
        yield "depthwise"
    users = [other for other in ops if index in other.inputs]
    after = users[0] if len(users) == 1 else None
    fills = op.depthwise and isinstance(after, Conv) and after.pointwise
    if fills and after is not None and choices[after.name].kernel == "spmm_packed":
        yield "fused"
