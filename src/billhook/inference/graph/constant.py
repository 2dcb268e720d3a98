"""Numbers of the model that operations read as they read values: positions, masks, scales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from billhook.inference.graph.ops import Plain, Shape, Site, is_count, require
from billhook.inference.kernels import Step

__all__ = ["Constant"]


@dataclass(frozen=True)
class Constant(Plain):
    """A tensor of fp32, contiguous, as a value of its own shape."""

    tensor: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    type_name: ClassVar[str] = "Constant"

    @property
    def data(self) -> torch.Tensor | None:
        return self.tensor

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(not sources, f"reads {list(sources)}")
        shape = tuple(self.tensor.shape)
        require(len(shape) in (1, 3) and is_count(*shape), f"is of {shape}")
        require(math.prod(shape) < 2**31, f"is of {shape}")
        return shape

    def steps(self, _: Site) -> list[Step]:
        return []
