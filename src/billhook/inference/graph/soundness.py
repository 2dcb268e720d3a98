"""Whether the operations of a network fit together: native code trusts them with addresses.

Programs from files and plans from users are checked here; capture makes sound ones.
"""

from collections.abc import Mapping, Sequence

from billhook.inference.graph.ops import INPUT, Layer, Op, Shape, is_count, require
from billhook.inference.kernels import ACTIVATIONS
from billhook.inference.plan import Choice

__all__ = ["after", "check_choices", "check_ops"]

# Beyond these no network goes, and placing the operations would take long or recurse deep.
MAX_OPS = 4096
MAX_INPUTS = 16384  # of all operations together
MAX_CONCAT_DEPTH = 256  # concatenations within concatenations


def check_ops(ops: list[Op], input_shape: Shape) -> None:
    """Raises ValueError unless every operation's sizes follow from those of what it reads.

    >>> import torch
    >>> from billhook.inference.graph import Conv
    >>> check_ops([Conv("c", (INPUT,), (4, 9, 9), weight=torch.ones(4, 3, 1, 1))], (3, 8, 8))
    Traceback (most recent call last):
    ...
    ValueError: operation 0, 'c', makes (4, 9, 9) where (4, 8, 8) follows
    """
    shapes = {INPUT: tuple(input_shape)}
    inputs = sum(len(op.inputs) for op in ops)
    small = 0 < len(ops) <= MAX_OPS and inputs <= MAX_INPUTS
    if not small or len(input_shape) != 3 or not is_count(*input_shape):
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
        if op.activation not in (ACTIVATIONS if op.activates else ("none",)):
            raise ValueError(f"{where} has the activation {op.activation!r}")
        try:
            follows = op.result_shape([shapes[value] for value in op.inputs])
        except ValueError as error:
            raise ValueError(f"{where} {error}") from error
        # A vector may be called (F, 1, 1) too.
        fits = op.shape in (follows, (*follows, 1, 1)[:3]) and is_count(*follows, *op.shape)
        if not fits:
            raise ValueError(f"{where} makes {op.shape} where {follows} follows")
        shapes[index] = follows
        depth[index] = 1 + max(depth[value] for value in op.inputs) if op.joins else 0
        require(depth[index] <= MAX_CONCAT_DEPTH, f"{where} joins {depth[index]} times over")


def check_choices(ops: list[Op], choices: Mapping[str, Choice]) -> None:
    """Raises ValueError unless the plan has one choice for each layer, a kernel that can run it."""
    layers = [op for op in ops if isinstance(op, Layer)]
    different = sorted({op.name for op in layers} ^ set(choices))
    if different or len({op.name for op in layers}) != len(layers):
        raise ValueError(f"the plan and the model differ in layer {[*different, ''][0]!r}")
    for index, op in enumerate(ops):
        if not isinstance(op, Layer):
            continue
        kernel, follower = choices[op.name].kernel, after(ops, index)
        fits = kernel in op.kernels_for(follower)
        if kernel == "fused" and fits and follower is not None:
            fits = choices[follower.name].kernel == "spmm_packed"
        if not fits:
            raise ValueError(f"the plan has {op.name!r} run by {kernel!r}, which cannot")


def after(ops: Sequence[Op], index: int) -> Op | None:
    """The operation that alone reads an operation's result, None if there are more."""
    users = [other for other in ops if index in other.inputs]
    return users[0] if len(users) == 1 else None
