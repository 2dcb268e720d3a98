"""Matrix times vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from billhook.inference import kernels
from billhook.inference.graph.dense import dense_linear
from billhook.inference.graph.ops import (
    NO_VIEW,
    Layer,
    Op,
    Part,
    Shape,
    Site,
    Target,
    is_count,
    only,
    require,
)
from billhook.inference.kernels import Step
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import floats, to_csr
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS, LaneRows, to_lanes

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear(Layer):
    """Matrix times vector; a weight of (rows, columns)."""

    type_name: ClassVar[str] = "Linear"
    kind: ClassVar[str] = "linear"

    @property
    def is_planes(self) -> bool:
        return False

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        source, shape = only(sources, 1), tuple(self.weight.shape)
        fits = len(shape) == 2 and is_count(*shape) and shape[1] == source[0]
        require(fits, f"cannot multiply {source}")
        return (shape[0],)

    def kernels_for(self, _: Op | None = None, /) -> tuple[str, ...]:
        return ("dense", "sparse") if self.weight.shape[1] <= MAX_LANE_COLUMNS else ("dense",)

    def lower(self, index: int, site: Site, choice: Choice, target: Target) -> list[Part]:
        if choice.kernel == "dense":
            return [dense_linear(self, site.inputs[0], site.output)]
        step = Step(op=kernels.LINEAR, x=site.inputs[0], y=site.output, addend=NO_VIEW)
        step.note = self.note(index)

        def pack() -> LaneRows:
            return to_lanes(to_csr(self.weight), floats(self.bias), self.activation)

        target.bind(step, "lanes", lambda: target.pack((index, "lanes"), pack))
        return [step]

    def dense_form(self, source: Shape) -> Callable[[], object]:
        operand, weight = torch.rand(1, *source, dtype=torch.float32), self.dense_weight
        return lambda: F.linear(operand.view(1, -1), weight, self.bias)
