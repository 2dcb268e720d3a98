"""Inputs of integers, embeddings, LSTM and GRU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from billhook.inference import kernels
from billhook.inference.graph.linear import bind_lanes
from billhook.inference.graph.ops import (
    Layer,
    Op,
    Plain,
    Shape,
    Site,
    Target,
    is_count,
    planes_step,
    require,
)
from billhook.inference.kernels import NUMBERS, Step
from billhook.inference.plan import Choice
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS

__all__ = ["Cast", "Embed", "Recurrent"]


@dataclass(frozen=True)
class Cast(Plain):
    """An input of another ``number`` type as fp32: integers are exact below 2**24."""

    number: str = "I64"

    type_name: ClassVar[str] = "Cast"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        known = isinstance(self.number, str) and self.number in NUMBERS
        own = len(self.inputs) == 1 and self.inputs[0] < 0
        require(known and own and len(sources[0]) == 1, f"cannot convert {list(sources)}")
        return sources[0]

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.CAST, site, self.shape)
        step.function = NUMBERS.index(self.number)
        return [step]


@dataclass(frozen=True)
class Embed(Plain):
    """The rows of a table (1, rows, features) that a vector of indices names: maps of one row for
    each feature; of one index the result may be a vector."""

    type_name: ClassVar[str] = "Embed"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        fits = len(sources) == 2 and len(sources[0]) == 1 and len(sources[1]) == 3
        require(fits and sources[1][0] == 1, f"cannot look {list(sources)} up")
        require(sources[1][1] < 2**24, f"has {sources[1][1]} rows, more than fp32 counts")
        features, indices = sources[1][2], sources[0][0]
        vector = indices == 1 and len(self.shape) == 1
        return (features,) if vector else (features, 1, indices)

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.EMBED, site, self.shape)
        step.addend = site.inputs[1]
        step.channels = self.shape[0]
        step.width = site.shapes[0][0]
        step.in_height = site.shapes[1][1]
        return [step]


@dataclass(frozen=True)
class Recurrent(Layer):
    """One direction of an LSTM or GRU layer over the columns of its input gates.

    ``cell`` is "lstm" (gates i, f, g, o) or "gru" (r, z, n); the weight is the recurrent matrix
    (gates * units, units), a GRU's with its bias. Reads the gates that the inputs make, biases
    included, then the first state h, and for an LSTM c, if ``started``; gives h of each time step,
    and if ``cells`` c after it.
    """

    cell: str = "lstm"
    reverse: bool = False
    started: bool = False
    cells: bool = False

    type_name: ClassVar[str] = "Recurrent"
    kind: ClassVar[str] = "recurrent"
    activations: ClassVar[tuple[str, ...]] = ("none",)

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        flags = (self.reverse, self.started, self.cells)
        require(all(isinstance(f, bool) for f in flags), "has flags that are not booleans")
        require(self.cell in ("lstm", "gru"), f"has the cell {self.cell!r}")
        require(not self.cells or self.cell == "lstm", "has no cells")
        shape, gates = tuple(self.weight.shape), 4 if self.cell == "lstm" else 3
        fits = len(shape) == 2 and is_count(*shape) and shape[0] == gates * shape[1]
        require(fits and shape[1] <= MAX_LANE_COLUMNS, f"has a matrix of {shape}")
        states = (1 if self.cell == "gru" else 2) if self.started else 0
        require(len(sources) == 1 + states, f"takes {list(sources)}")
        given, made = sources[0], shape[1] * (1 + self.cells)
        require(all(s == (shape[1],) for s in sources[1:]), f"starts from {list(sources[1:])}")
        if len(given) == 1:
            require(given == (shape[0],), f"takes the gates {given}")
            return (made,)
        require(given[:2] == (shape[0], 1), f"takes the gates {given}")
        return (made, 1, given[2])

    @property
    def positions(self) -> int:
        return self.shape[2] if len(self.shape) == 3 else 1

    def work(self, sources: Sequence[Shape]) -> int:
        return super().work(sources) * self.positions

    def kernels_for(self, _: Op | None = None, /) -> tuple[str, ...]:
        return ("dense", "sparse")

    def lower(self, index: int, site: Site, choice: Choice, target: Target) -> list[Step]:
        step = planes_step(kernels.LSTM if self.cell == "lstm" else kernels.GRU, site, self.shape)
        step.width = self.positions
        bind_lanes(step, self, index, choice, target)
        step.size[0], step.size[1] = int(self.reverse), int(self.cells)
        if self.started:
            step.addend = site.inputs[1]
        if self.started and self.cell == "lstm":
            step.extra = site.inputs[2]
        return [step]

    def dense_form(self, _: Shape) -> Callable[[], object]:
        """Its products alone."""
        operand = torch.rand(1, self.weight.shape[1], dtype=torch.float32)
        weight, steps = self.dense_weight, self.positions
        return lambda: [F.linear(operand, weight, self.bias) for _ in range(steps)]
