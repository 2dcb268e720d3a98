"""Functions of one value or two, element by element."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from billhook.inference import kernels
from billhook.inference.graph.ops import Plain, Shape, Site, is_number, planes_step, require
from billhook.inference.kernels import ACTIVATIONS, BINARY_FUNCTIONS, FUNCTIONS, Step, View

__all__ = ["Binary", "Elementwise"]


def _are_numbers(parameters: tuple[float, ...]) -> bool:
    return isinstance(parameters, tuple) and len(parameters) == 2 and is_number(*parameters)


@dataclass(frozen=True)
class Elementwise(Plain):
    """A function of each element; ``function`` is one of ``kernels.FUNCTIONS``, which may have
    parameters a and b."""

    function: str = ""
    parameters: tuple[float, float] = (0.0, 0.0)

    type_name: ClassVar[str] = "Elementwise"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        known = isinstance(self.function, str) and self.function in FUNCTIONS
        require(known, f"is of no known function, {self.function!r}")
        require(_are_numbers(self.parameters), f"has the parameters {self.parameters}")
        require(len(sources) == 1, f"takes {list(sources)}")
        return sources[0]

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.POINTWISE, site, self.shape)
        step.function = FUNCTIONS.index(self.function)
        step.parameters[:] = self.parameters
        return [step]


@dataclass(frozen=True)
class Binary(Plain):
    """A function of two values, then the activation; ``function`` is one of
    ``kernels.BINARY_FUNCTIONS``, which may have the parameter a.

    The second value has the first one's size or 1 along each axis; beside maps, a vector is one
    number for each channel.
    """

    function: str = ""
    parameters: tuple[float, float] = (0.0, 0.0)

    type_name: ClassVar[str] = "Binary"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        known = isinstance(self.function, str) and self.function in BINARY_FUNCTIONS
        require(known, f"is of no known function, {self.function!r}")
        require(_are_numbers(self.parameters), f"has the parameters {self.parameters}")
        require(len(sources) == 2, f"takes {list(sources)}")
        x, other = sources
        wide = _as_wide(other, x)
        fits = len(wide) == len(x) and all(n in (1, m) for n, m in zip(wide, x, strict=True))
        require(fits, f"takes {x} and {other}")
        return x

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.BINARY, site, self.shape)
        step.function = BINARY_FUNCTIONS.index(self.function)
        step.parameters[:] = self.parameters
        step.activation = ACTIVATIONS.index(self.activation)
        x, other = site.shapes
        view, wide = site.inputs[1], _as_wide(other, x)
        if len(x) == 1:
            step.addend, step.from_[0] = view, int(wide[0] > 1)
            return [step]
        plane = view.plane if wide[0] > 1 else 0
        step.addend = View(view.buffer, view.offset, plane, view.pitch if wide[1] > 1 else 0)
        step.from_[0] = int(wide[2] > 1)
        return [step]


def _as_wide(other: Shape, x: Shape) -> Shape:
    return (*other, 1, 1) if len(other) == 1 and len(x) == 3 else other
