"""Elementwise functions and products, which torch runs between the native steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch.nn import functional as F

from billhook.inference.graph.dense import planes_of
from billhook.inference.graph.ops import Dense, Part, Plain, Shape, Site, require
from billhook.inference.kernels import RESULT, SOURCE, View

__all__ = ["FUNCTIONS", "Elementwise", "Multiply"]

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""By torch's names."""


@dataclass(frozen=True)
class _OfTorch(Plain):
    """An operation on maps, or on vectors if ``vector``."""

    vector: bool = False

    @property
    def is_planes(self) -> bool:
        return not self.vector

    def _check(self, source: Shape) -> None:
        require(isinstance(self.vector, bool), f"says {self.vector!r} where a boolean is meant")
        require(len(source) == (1 if self.vector else 3), f"works on {source}")


@dataclass(frozen=True)
class Elementwise(_OfTorch):
    """A function of each element; ``function`` is one of ``FUNCTIONS``."""

    function: str = ""

    type_name: ClassVar[str] = "Elementwise"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        known = isinstance(self.function, str) and self.function in FUNCTIONS
        require(known, f"is of no known function, {self.function!r}")
        require(len(sources) == 1, f"takes {list(sources)}")
        self._check(sources[0])
        return sources[0]

    def steps(self, site: Site) -> list[Part]:
        return [_torch_step(FUNCTIONS[self.function], site)]


@dataclass(frozen=True)
class Multiply(_OfTorch):
    """The product of two equal values, or of a map with one number for each channel."""

    type_name: ClassVar[str] = "Multiply"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 2, f"takes {list(sources)}")
        x, factor = sources
        self._check(x)
        require(factor == x or (len(x) == 3 and factor == x[:1]), f"multiplies {x} by {factor}")
        return x

    def steps(self, site: Site) -> list[Part]:
        return [_torch_step(torch.mul, site)]


def _torch_step(function: Callable[..., torch.Tensor], site: Site) -> Dense:
    """The function of the inputs; a vector beside maps is one number for each channel."""
    reads = list(zip(site.inputs, site.shapes, site.planes, strict=True))
    shape = site.shapes[0]

    def run(workspace: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        operands = [
            _value(x.flatten() if view.buffer == SOURCE else workspace, view, own, planes)
            for view, own, planes in reads
        ]
        if site.planes[0]:
            operands = [o if o.dim() == 3 else o.view(-1, 1, 1) for o in operands]
            to = planes_of(workspace, site.output, shape)
        elif site.output.buffer == RESULT:
            to = y.view(-1)
        else:
            to = _value(workspace, site.output, shape, False)
        to.copy_(function(*operands))

    return run


def _value(buffer: torch.Tensor, view: View, shape: Shape, planes: bool) -> torch.Tensor:
    if planes:
        return planes_of(buffer, view, shape)
    return buffer[view.offset : view.offset + shape[0]]
