"""A whole network as data: its inputs, its operations, its outputs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from billhook.inference.graph.ops import Op, Shape

__all__ = ["DTYPES", "Graph", "Input", "Output"]

DTYPES = {
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
"""What inputs may be, by the names of the file format."""


@dataclass(frozen=True)
class Input:
    """``shape`` is one sample's, of torch's dimensions; the batch comes in at ``axis``."""

    name: str
    shape: Shape
    dtype: str = "F32"
    axis: int = 0

    @property
    def form(self) -> Shape:
        """The value that operations read: maps (C, H, W), whose order in memory is that of the
        input, or a vector (F,) of one dimension or of integers.

        >>> Input("tokens", (35, 200)).form, Input("words", (35,), "I64").form
        ((35, 1, 200), (35,))
        """
        if len(self.shape) < 2 or self.dtype != "F32":
            return (math.prod(self.shape),)
        if len(self.shape) == 2:
            return (self.shape[0], 1, self.shape[1])
        return (math.prod(self.shape[:-2]), *self.shape[-2:])


@dataclass(frozen=True)
class Output:
    """The result ``value``, whose order in memory is that of torch's dimensions.

    ``shape`` is one sample's; the batch comes in at ``axis``, or is one dimension together with
    what follows there, if ``merged``.
    """

    name: str
    value: int
    shape: Shape
    axis: int = 0
    merged: bool = False

    @property
    def shape_of_one(self) -> Shape:
        """Of a batch of one.

        >>> Output("h", 0, (2, 96), axis=1).shape_of_one
        (2, 1, 96)
        """
        if self.merged:
            return self.shape
        return (*self.shape[: self.axis], 1, *self.shape[self.axis :])

    def of_batch(self, y: torch.Tensor) -> torch.Tensor:
        """The model's output from the samples' results (N, *shape)."""
        y = y.movedim(0, self.axis)
        return y.flatten(self.axis, self.axis + 1) if self.merged else y


@dataclass(frozen=True)
class Graph:
    """Value -1 - k is input k; operation i makes value i.

    ``structure`` nests the outputs as the model returns them: a number is an output's, a list a
    tuple, a dict one of names.
    """

    ops: tuple[Op, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    structure: Any = 0

    @classmethod
    def of_maps(cls, ops: Sequence[Op], shape: Shape, output_shape: Shape | None = None) -> "Graph":
        """A graph of one input (N, C, H, W), whose last operation makes the output."""
        output = Output("y", len(ops) - 1, tuple(output_shape or ops[-1].shape))
        return cls(tuple(ops), (Input("x", tuple(shape)),), (output,))

    @property
    def shapes(self) -> dict[int, Shape]:
        """Of every value."""
        given = {-1 - k: each.form for k, each in enumerate(self.inputs)}
        return {**given, **{index: op.shape for index, op in enumerate(self.ops)}}

    @property
    def work(self) -> int:
        """Floats that one sample makes the operations read."""
        shapes = self.shapes
        return sum(op.work([shapes[value] for value in op.inputs]) for op in self.ops)

    def example(self) -> list[torch.Tensor]:
        """Inputs of a batch of one: numbers between 0 and 1, or zeros where they are integers."""
        made = []
        for each in self.inputs:
            shape = (*each.shape[: each.axis], 1, *each.shape[each.axis :])
            if each.dtype == "F32":
                made.append(torch.rand(shape, dtype=torch.float32))
            else:
                made.append(torch.zeros(shape, dtype=DTYPES[each.dtype]))
        return made

    def pack(self, outputs: Sequence[torch.Tensor]) -> Any:
        """The outputs in the structure that the model returns them in."""
        return _nested(self.structure, outputs)

    def with_ops(self, ops: Sequence[Op]) -> "Graph":
        """The same of other operations."""
        return replace(self, ops=tuple(ops))

    def constants(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The values that are known, and their numbers."""
        for index, op in enumerate(self.ops):
            if op.data is not None:
                yield index, op.data


def _nested(structure: Any, outputs: Sequence[torch.Tensor]) -> Any:
    if isinstance(structure, int):
        return outputs[structure]
    if isinstance(structure, dict):
        return {name: _nested(part, outputs) for name, part in structure.items()}
    return tuple(_nested(part, outputs) for part in structure)
