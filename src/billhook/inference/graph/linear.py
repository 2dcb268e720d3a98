"""Matrix times vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from billhook.inference import kernels
from billhook.inference.graph.ops import (
    Layer,
    Op,
    Shape,
    Site,
    Target,
    is_count,
    only,
    planes_step,
    require,
)
from billhook.inference.kernels import Step, View
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import column_blocks, csr_for, floats
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS, LaneRows, to_lanes

__all__ = ["Linear", "bind_lanes"]


def bind_lanes(
    step: Step, op: Layer, index: int, choice: Choice, target: Target, *, block: int = 0
) -> None:
    """Gives a step the packed matrix of an operation, or of the columns that two bytes count one
    block of them: the first adds the bias, the last applies the activation."""
    blocks = -(-op.weight.shape[1] // MAX_LANE_COLUMNS)

    def pack() -> LaneRows:
        _, csr = column_blocks(csr_for(op.weight, choice.kernel == "dense"), MAX_LANE_COLUMNS)[
            block
        ]
        bias = floats(op.bias) if block == 0 else None
        rows = to_lanes(csr, bias, op.activation if block + 1 == blocks else "none")
        return op.let_go(rows) if blocks == 1 else rows

    first = {"first_column": block * MAX_LANE_COLUMNS} if blocks > 1 else {}
    step.note = {**op.note(index), **first}
    key = (index, "lanes", choice.kernel, block)
    target.bind(step, "lanes", lambda: target.pack(key, pack))


@dataclass(frozen=True)
class Linear(Layer):
    """Matrix times vector; a weight of (rows, columns)."""

    type_name: ClassVar[str] = "Linear"
    kind: ClassVar[str] = "linear"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        source, shape = only(sources, 1), tuple(self.weight.shape)
        fits = len(shape) == 2 and is_count(*shape) and shape[1] == source[0]
        require(fits, f"cannot multiply {source}")
        return (shape[0],)

    def kernels_for(self, _: Op | None = None, /) -> tuple[str, ...]:
        return ("dense", "sparse")

    def lower(self, index: int, site: Site, choice: Choice, target: Target) -> list[Step]:
        steps, x = [], site.inputs[0]
        for block in range(-(-self.weight.shape[1] // MAX_LANE_COLUMNS)):
            step = planes_step(kernels.LINEAR, site, self.shape)
            step.x = View(x.buffer, x.offset + block * MAX_LANE_COLUMNS, x.plane, x.pitch)
            bind_lanes(step, self, index, choice, target, block=block)
            if block:
                step.addend = site.output
            steps.append(step)
        return steps

    def dense_form(self, source: Shape) -> Callable[[], object]:
        operand, weight = torch.rand(1, *source, dtype=torch.float32), self.dense_weight
        return lambda: F.linear(operand.view(1, -1), weight, self.bias)
