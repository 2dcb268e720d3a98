"""Operations without weights: pools, means, sums, concatenations, flattening, activations.

Files call all but the pools "Other", of a ``kind``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from billhook.inference import kernels
from billhook.inference.graph.ops import (
    Plain,
    Shape,
    Site,
    is_count,
    only,
    planes_step,
    require,
    step_between,
)
from billhook.inference.kernels import ACTIVATIONS, Step, View

__all__ = ["Activation", "Add", "Concat", "Flatten", "Mean", "Other", "Pool", "copy_step", "other"]

# Sides of windows and the like. Together with the shapes they keep every product below 2**63.
MAX_SIDE = 2**24
MAX_POOL_MARGIN = 4096  # how much wider than its map a pool's padding may be
MAX_POOL_OVERLAP = 4096  # windows that one pixel is in, along one side


@dataclass(frozen=True)
class Pool(Plain):
    """``kind`` is "max" or "average"; ``padding`` is (top, left)."""

    kind: str = "max"
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    count_padding: bool = True

    type_name: ClassVar[str] = "Pool"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        """The pool's own shape, if it fits: each side rounded down or up, as torch does."""
        source = only(sources, 3)
        require(
            self.kind in ("max", "average")
            and isinstance(self.count_padding, bool)
            and (len(self.kernel), len(self.stride), len(self.padding)) == (2, 2, 2)
            and is_count(*self.kernel, *self.stride, most=MAX_SIDE)
            and is_count(*self.padding, least=0, most=MAX_SIDE)
            and len(self.shape) == 3
            and is_count(*self.shape),
            f"cannot pool {source}",
        )
        sides = zip(self.shape[1:], source[1:], self.kernel, self.stride, self.padding, strict=True)
        for out, n, kernel, stride, padding in sides:
            require(2 * padding <= kernel <= n + 2 * padding, "pools beyond the map")
            require(padding <= n + MAX_POOL_MARGIN, f"pads {n} pixels by {padding}")
            whole, rest = divmod(n + 2 * padding - kernel, stride)
            up = int(rest > 0 and (whole + 1) * stride < n + padding)  # no window is all padding
            require(out in (whole + 1, whole + 1 + up), "pools beyond the map")
            require(out == 1 or kernel <= MAX_POOL_OVERLAP * stride, "pools each pixel too often")
        return (source[0], *self.shape[1:])

    def work(self, sources: Sequence[Shape]) -> int:
        source = sources[0]
        rows = self.shape[1] * min(self.kernel[0], source[1]) * source[2]
        return self.shape[0] * (rows + self.shape[1] * self.shape[2] * self.kernel[1])

    def steps(self, site: Site) -> list[Step]:
        # The kernel keeps room for windows beyond the last: one window's stride must not count.
        strides = [s if n > 1 else 1 for s, n in zip(self.stride, self.shape[1:], strict=True)]
        kind = kernels.MAX_POOL if self.kind == "max" else kernels.AVERAGE_POOL
        step = planes_step(kind, site, self.shape)
        step.kernel_height, step.kernel_width = self.kernel
        step.stride_height, step.stride_width = strides
        step.pad_top, step.pad_left = self.padding
        step.count_padding = int(self.count_padding)
        return [step]


@dataclass(frozen=True)
class Other(Plain):
    """An operation without settings, of a ``kind``: see :func:`other`."""

    kind: str = ""

    type_name: ClassVar[str] = "Other"


@dataclass(frozen=True)
class Mean(Other):
    """The mean of each plane: a vector."""

    kind: str = "mean"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        return only(sources, 3)[:1]

    def steps(self, site: Site) -> list[Step]:
        return [planes_step(kernels.MEAN, site, site.shapes[0])]


@dataclass(frozen=True)
class Add(Other):
    """The sum of two maps, then the activation."""

    kind: str = "add"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(all(len(source) == 3 for source in sources), f"works on {list(sources)}")
        require(len(sources) == 2 and len(set(sources)) == 1, f"adds {list(sources)}")
        return sources[0]

    def steps(self, site: Site) -> list[Step]:
        step = _sum_step(site, self)
        step.addend = site.inputs[1]
        return [step]


@dataclass(frozen=True)
class Activation(Other):
    """The activation alone."""

    kind: str = "activation"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        return only(sources, 3)

    def steps(self, site: Site) -> list[Step]:
        return [_sum_step(site, self)]


@dataclass(frozen=True)
class Concat(Other):
    """Maps of one size, channel after channel."""

    kind: str = "concat"
    joins: ClassVar[bool] = True
    nests: ClassVar[bool] = True

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(all(len(source) == 3 for source in sources), f"works on {list(sources)}")
        require(len({source[1:] for source in sources}) == 1, f"joins {list(sources)}")
        return (sum(source[0] for source in sources), *sources[0][1:])

    @property
    def tied(self) -> tuple[int, ...]:
        return tuple(value for value in self.inputs if value >= 0)

    def steps(self, site: Site) -> list[Step]:
        """Copies of the parts that could not be computed in place."""
        steps: list[Step] = []
        offset, y = 0, site.output
        for x, shape, inside in zip(site.inputs, site.shapes, site.inside, strict=True):
            if not inside:
                to = View(y.buffer, y.offset + offset * y.plane, y.plane, y.pitch)
                steps.append(copy_step(x, to, shape))
            offset += shape[0]
        return steps


@dataclass(frozen=True)
class Flatten(Other):
    """The features of a map, or of a vector, one after another."""

    kind: str = "flatten"
    nests: ClassVar[bool] = True

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 1, "flattens several values")
        return (math.prod(sources[0]),)

    def alias_from(self, source: Shape, /) -> int | None:
        return 0 if len(source) == 1 else None

    def steps(self, site: Site) -> list[Step]:
        if site.aliased:
            return []
        x, y, shape = site.inputs[0], site.output, site.shapes[0]
        if len(shape) == 3:
            return [copy_step(x, View(y.buffer, y.offset, shape[1] * shape[2], shape[2]), shape)]
        features = self.shape[0]  # of a vector
        source = View(x.buffer, x.offset, features, features)
        return [copy_step(source, View(y.buffer, y.offset, features, features), (1, 1, features))]


_OTHERS: dict[str, type[Other]] = {
    "mean": Mean,
    "add": Add,
    "activation": Activation,
    "concat": Concat,
    "flatten": Flatten,
}


def other(**settings: Any) -> Other:
    """The operation of a ``kind`` that files call "Other".

    Raises:
        ValueError: There is no such kind.
    """
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in _OTHERS:
        raise ValueError(f"an operation has the unknown kind {kind!r}")
    return _OTHERS[kind](**settings)


def _sum_step(site: Site, op: Other) -> Step:
    """The activation of a sum; of the first input alone as long as nothing is added."""
    step = planes_step(kernels.ADD, site, op.shape)
    step.activation = ACTIVATIONS.index(op.activation)
    return step


def copy_step(x: View, y: View, shape: Shape) -> Step:
    """Copies planes of (C, H, W)."""
    step = step_between(kernels.COPY, x, shape, y, shape)
    step.stride_height = step.stride_width = 1
    return step
