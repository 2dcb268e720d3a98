"""Normalisation, softmax and reductions over the channels, rows or columns of a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from billhook.inference import kernels
from billhook.inference.graph.ops import Plain, Shape, Site, is_count, planes_step, require
from billhook.inference.kernels import Step

__all__ = ["REDUCTIONS", "GroupNorm", "LayerNorm", "Reduce", "Softmax"]

ACROSS_CHANNELS, ACROSS_ROWS, WITHIN_ROW = range(3)  # csrc's Extent
REDUCTIONS = ("mean", "sum", "max", "min")


@dataclass(frozen=True)
class _Normalise(Plain):
    """What is normalised, then the vectors it is multiplied by and shifted by, if any.

    (x - mean) / sqrt(variance + eps), or x / sqrt(mean of squares + eps) unless it is ``centred``.
    """

    eps: float = 1e-5
    centred: bool = True
    scaled: bool = False
    shifted: bool = False

    def _check(self, sources: Sequence[Shape], numbers: int) -> None:
        flags = (self.centred, self.scaled, self.shifted)
        require(all(isinstance(f, bool) for f in flags), "has flags that are not booleans")
        require(type(self.eps) in (int, float) and 0 <= self.eps < 1e6, f"has eps {self.eps!r}")
        require(len(sources) == 1 + self.scaled + self.shifted, f"takes {list(sources)}")
        require(all(s == (numbers,) for s in sources[1:]), f"takes {list(sources)}")

    def _step(self, site: Site, extent: int, groups: int) -> Step:
        step = planes_step(kernels.NORMALISE, site, self.shape)
        step.function = extent
        step.size[0], step.size[1] = groups, int(self.centred)
        step.parameters[0] = self.eps
        if self.scaled:
            step.addend = site.inputs[1]
        if self.shifted:
            step.extra = site.inputs[1 + self.scaled]
        return step


@dataclass(frozen=True)
class LayerNorm(_Normalise):
    """Over the channels of each pixel, or over a vector."""

    type_name: ClassVar[str] = "LayerNorm"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(bool(sources), "takes nothing")
        self._check(sources, sources[0][0])
        return sources[0]

    def steps(self, site: Site) -> list[Step]:
        extent = WITHIN_ROW if len(self.shape) == 1 else ACROSS_CHANNELS
        return [self._step(site, extent, 1)]


@dataclass(frozen=True)
class GroupNorm(_Normalise):
    """Over ``groups`` of the channels of maps, all their pixels together."""

    groups: int = 1

    type_name: ClassVar[str] = "GroupNorm"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(bool(sources) and len(sources[0]) == 3, f"takes {list(sources)}")
        fits = is_count(self.groups) and sources[0][0] % self.groups == 0
        require(fits, f"has {self.groups!r} groups")
        self._check(sources, sources[0][0])
        return sources[0]

    def steps(self, site: Site) -> list[Step]:
        return [self._step(site, ACROSS_ROWS, self.groups)]


@dataclass(frozen=True)
class Softmax(Plain):
    """e^x over its sum along an ``axis``, or the logarithm of that."""

    axis: int = 0
    logarithm: bool = False

    type_name: ClassVar[str] = "Softmax"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 1, f"takes {list(sources)}")
        require(isinstance(self.logarithm, bool), "has a flag that is not a boolean")
        require(is_count(self.axis, least=0, most=len(sources[0]) - 1), f"has axis {self.axis!r}")
        return sources[0]

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.SOFTMAX, site, self.shape)
        step.function = WITHIN_ROW if len(self.shape) == 1 else self.axis
        step.size[0] = int(self.logarithm)
        return [step]


@dataclass(frozen=True)
class Reduce(Plain):
    """One map from the channels of maps: their "mean", "sum", "max" or "min" at each pixel."""

    kind: str = "mean"

    type_name: ClassVar[str] = "Reduce"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 1 and len(sources[0]) == 3, f"takes {list(sources)}")
        known = isinstance(self.kind, str) and self.kind in REDUCTIONS
        require(known, f"is of no known kind, {self.kind!r}")
        return (1, *sources[0][1:])

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.REDUCE, site, self.shape)
        step.function = REDUCTIONS.index(self.kind)
        return [step]
