"""Whether the operations of a network fit together: native code trusts them with addresses.

Programs from files and plans from users are checked here; capture makes sound ones.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from billhook.inference.graph.ops import Layer, Op, Shape, is_count, require
from billhook.inference.graph.program import DTYPES, Graph, Input
from billhook.inference.plan import Choice

__all__ = ["after", "check_choices", "check_graph"]

# Beyond these no network goes, and placing the operations would take long or recurse deep.
MAX_OPS = 4096
MAX_INPUTS = 16384  # of all operations together
MAX_DEPTH = 256  # concatenations within concatenations, aliases of aliases
MAX_BORDERS = 256  # inputs, outputs
MAX_RANK = 8  # of these


def check_graph(graph: Graph) -> None:
    """Raises ValueError unless every operation's sizes follow from those of what it reads, and the
    outputs are results.

    >>> import torch
    >>> from billhook.inference.graph import Conv
    >>> conv = Conv("c", (-1,), (4, 9, 9), weight=torch.ones(4, 3, 1, 1))
    >>> check_graph(Graph.of_maps([conv], (3, 8, 8)))
    Traceback (most recent call last):
    ...
    ValueError: operation 0, 'c', makes (4, 9, 9) where (4, 8, 8) follows
    """
    ops, inputs = graph.ops, sum(len(op.inputs) for op in graph.ops)
    small = 0 < len(ops) <= MAX_OPS and inputs <= MAX_INPUTS
    shapes_known = 0 < len(graph.inputs) <= MAX_BORDERS and all(map(_is_input, graph.inputs))
    if not small or not shapes_known:
        given = [each.shape for each in graph.inputs[:4]]
        raise ValueError(f"{len(ops)} operations with {inputs} inputs on an input of {given}")
    shapes: dict[int, Shape] = {-1 - k: each.form for k, each in enumerate(graph.inputs)}
    depth = dict.fromkeys(shapes, 0)
    for index, op in enumerate(ops):
        where = f"operation {index}, {op.name!r},"
        _check_head(where, op, shapes)
        _check_types(where, op, graph)
        try:
            follows = op.result_shape([shapes[value] for value in op.inputs])
        except ValueError as error:
            raise ValueError(f"{where} {error}") from error
        if op.shape != follows or not is_count(*follows):
            raise ValueError(f"{where} makes {op.shape} where {follows} follows")
        shapes[index] = follows
        depth[index] = 1 + max(depth[value] for value in op.inputs) if op.nests else 0
        require(depth[index] <= MAX_DEPTH, f"{where} nests {depth[index]} times over")
    _check_outputs(graph, shapes)


def _is_input(given: Input) -> bool:
    return (
        isinstance(given.name, str)
        and given.dtype in DTYPES
        and len(given.shape) <= MAX_RANK
        and is_count(*given.shape)
        and is_count(given.axis, least=0, most=len(given.shape))
    )


def _check_head(where: str, op: Op, shapes: Mapping[int, Shape]) -> None:
    if not isinstance(op.name, str):
        raise ValueError(f"{where} has a name that is not a string")
    if any(type(v) is not int or v not in shapes for v in op.inputs):
        raise ValueError(f"{where} reads {op.inputs}")
    if not op.inputs and op.data is None:
        raise ValueError(f"{where} reads nothing")
    if op.activation not in op.activations:
        raise ValueError(f"{where} has the activation {op.activation!r}")


def _check_types(where: str, op: Op, graph: Graph) -> None:
    """Inputs of integers are read as what they are, and by nothing else."""
    for value in op.inputs:
        dtype = graph.inputs[-1 - value].dtype if value < 0 else "F32"
        if dtype != getattr(op, "number", "F32"):
            raise ValueError(f"{where} reads {dtype}")


def _check_outputs(graph: Graph, shapes: Mapping[int, Shape]) -> None:
    require(0 < len(graph.outputs) <= MAX_BORDERS, f"has {len(graph.outputs)} outputs")
    values = [output.value for output in graph.outputs]
    require(all(type(v) is int for v in values), f"has the outputs {values}")
    require(len(set(values)) == len(values), "gives a value twice")
    for output in graph.outputs:
        sound = (
            isinstance(output.name, str)
            and 0 <= output.value < len(graph.ops)
            and graph.ops[output.value].data is None
            and isinstance(output.merged, bool)
            and len(output.shape) <= MAX_RANK
            and is_count(*output.shape)
            and is_count(output.axis, least=0, most=len(output.shape) - output.merged)
            and math.prod(output.shape) == math.prod(shapes[output.value])
        )
        require(sound, f"the output {output.name!r} is not a result")
    require(
        sorted(_leaves(graph.structure)) == list(range(len(values))),
        "the structure of the outputs does not name each once",
    )


def _leaves(structure: Any, depth: int = 0) -> Iterator[int]:
    require(depth <= MAX_RANK, "the structure of the outputs is nested too deep")
    if type(structure) is int:
        yield structure
        return
    require(isinstance(structure, list | tuple | dict), "the outputs have no structure")
    for part in structure.values() if isinstance(structure, dict) else structure:
        yield from _leaves(part, depth + 1)


def check_choices(ops: Sequence[Op], choices: Mapping[str, Choice]) -> None:
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
