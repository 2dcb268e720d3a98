"""Operations that copy elements to other places: transposes, slices, repeats, padding, joins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from billhook.inference import kernels
from billhook.inference.graph.ops import (
    NO_VIEW,
    Plain,
    Shape,
    Site,
    is_count,
    is_number,
    only,
    pixels_of,
    planes_step,
    require,
    steps_of,
)
from billhook.inference.kernels import MAX_DIMS, Step, View

__all__ = ["Join", "Pad", "Rearrange", "Slice"]

Dim = tuple[int, int, int]  # size, floats from one element to the next in the source, in the result


def _is_shape(shape: Shape) -> bool:
    return len(shape) in (1, 3) and is_count(*shape)


def _copy(site: Site, shape: Shape, x: View, y: View, dims: Sequence[Dim]) -> Step:
    """The step of a copy; neighbouring dimensions that lie alike on both sides become one."""
    merged: list[Dim] = []
    for size, start, to in sorted((d for d in dims if d[0] > 1), key=lambda d: -d[2]):
        if merged and merged[-1][1] == size * start and merged[-1][2] == size * to:
            merged[-1] = (merged[-1][0] * size, start, to)
        else:
            merged.append((size, start, to))
    step = planes_step(kernels.REARRANGE, site, shape)
    step.x, step.y, step.dims = x, y, len(merged)
    step.channels = pixels_of(shape)[0]
    for i, (size, start, to) in enumerate(merged):
        step.size[i], step.from_[i], step.to[i] = size, start, to
    return step


@dataclass(frozen=True)
class Rearrange(Plain):
    """A copy along up to eight dimensions of ``sizes``.

    A step along dimension d moves by ``from_steps[d]`` elements along axis ``from_axes[d]`` of what
    is read (0: the element is repeated), whose first element is ``start``, and by ``to_steps[d]``
    along axis ``to_axes[d]`` of the result, all of which is written.
    """

    sizes: tuple[int, ...] = ()
    from_axes: tuple[int, ...] = ()
    from_steps: tuple[int, ...] = ()
    to_axes: tuple[int, ...] = ()
    to_steps: tuple[int, ...] = ()
    start: tuple[int, ...] = ()

    type_name: ClassVar[str] = "Rearrange"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 1, f"takes {list(sources)}")
        (source,) = sources
        parts = (self.sizes, self.from_axes, self.from_steps, self.to_axes, self.to_steps)
        require(
            all(isinstance(part, tuple) and len(part) == len(self.sizes) for part in parts)
            and len(self.sizes) <= MAX_DIMS
            and is_count(*self.sizes)
            and is_count(*self.from_steps, *self.to_steps, least=0)
            and is_count(*self.from_axes, least=0, most=len(source) - 1)
            and _is_shape(self.shape)
            and is_count(*self.to_axes, least=0, most=len(self.shape) - 1)
            and len(self.start) == len(source)
            and is_count(*self.start, least=0),
            f"cannot rearrange {source}",
        )
        last = list(self.start)
        for size, axis, step in zip(self.sizes, self.from_axes, self.from_steps, strict=True):
            last[axis] += (size - 1) * step
        require(all(i < n for i, n in zip(last, source, strict=True)), f"reads beyond {source}")
        self._check_written()
        return self.shape

    def _check_written(self) -> None:
        """Every element of the result is written once: each axis' steps are a number system."""
        for axis, extent in enumerate(self.shape):
            own = [
                (step, size)
                for size, to, step in zip(self.sizes, self.to_axes, self.to_steps, strict=True)
                if to == axis and size > 1
            ]
            expected = 1
            for step, size in sorted(own):
                require(step == expected, "writes some elements twice or never")
                expected *= size
            require(expected == extent, f"writes {expected} of {extent} elements of an axis")

    def steps(self, site: Site) -> list[Step]:
        source, x, y = site.shapes[0], site.inputs[0], site.output
        reads, writes = steps_of(x, source), steps_of(y, self.shape)
        dims = [
            (size, from_step * reads[from_axis], to_step * writes[to_axis])
            for size, from_axis, from_step, to_axis, to_step in zip(
                *(self.sizes, self.from_axes, self.from_steps, self.to_axes, self.to_steps),
                strict=True,
            )
        ]
        offset = sum(i * step for i, step in zip(self.start, reads, strict=True))
        x = View(x.buffer, x.offset + offset, x.plane, x.pitch)
        return [_copy(site, self.shape, x, y, dims)]


def _part(shape: Shape, view: View, first: Sequence[int]) -> View:
    """The view from an element of a value on."""
    offset = sum(i * step for i, step in zip(first, steps_of(view, shape), strict=True))
    return View(view.buffer, view.offset + offset, view.plane, view.pitch)


def _whole(shape: Shape, x: View, y: View) -> list[Dim]:
    """The dimensions of a copy of a value."""
    return list(zip(shape, steps_of(x, shape), steps_of(y, shape), strict=True))


@dataclass(frozen=True)
class Slice(Plain):
    """The channels of maps from ``first`` on, as they lie."""

    first: int = 0

    type_name: ClassVar[str] = "Slice"
    nests: ClassVar[bool] = True

    @property
    def tied(self) -> tuple[int, ...]:
        return self.inputs

    def alias_from(self, _: Shape, /) -> int | None:
        return self.first

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        source = only(sources, 3)
        require(
            len(self.shape) == 3
            and is_count(*self.shape)
            and is_count(self.first, least=0)
            and self.first + self.shape[0] <= source[0],
            f"has no such channels of {source}",
        )
        return (self.shape[0], *source[1:])

    def steps(self, site: Site) -> list[Step]:
        if site.aliased:
            return []
        x = _part(site.shapes[0], site.inputs[0], (self.first, 0, 0))
        return [_copy(site, self.shape, x, site.output, _whole(self.shape, x, site.output))]


@dataclass(frozen=True)
class Pad(Plain):
    """A value within a frame: ``before`` elements of ``value`` before each axis, and some after."""

    before: tuple[int, ...] = ()
    value: float = 0.0

    type_name: ClassVar[str] = "Pad"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 1, f"takes {list(sources)}")
        (source,) = sources
        require(
            is_number(self.value)
            and len(self.before) == len(self.shape) == len(source)
            and is_count(*self.shape)
            and is_count(*self.before, least=0)
            and all(b + n <= m for b, n, m in zip(self.before, source, self.shape, strict=True)),
            f"cannot pad {source}",
        )
        return self.shape

    def steps(self, site: Site) -> list[Step]:
        fill = planes_step(kernels.FILL, site, self.shape)
        fill.x, fill.channels = NO_VIEW, pixels_of(self.shape)[0]
        fill.parameters[0] = self.value
        source, x = site.shapes[0], site.inputs[0]
        y = _part(self.shape, site.output, self.before)
        copy = _copy(site, self.shape, x, y, _whole(source, x, y))
        copy.y = View(y.buffer, y.offset, y.plane, 0)  # the frame's row ends are zero already
        return [fill, copy]


@dataclass(frozen=True)
class Join(Plain):
    """Values one after another along an ``axis``; maps by their channels: see Concat."""

    axis: int = 0

    type_name: ClassVar[str] = "Join"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len({len(source) for source in sources}) == 1, f"joins {list(sources)}")
        rank = len(sources[0])
        require(is_count(self.axis, least=0, most=rank - 1), f"joins along {self.axis!r}")
        rest = {source[: self.axis] + source[self.axis + 1 :] for source in sources}
        require(len(rest) == 1, f"joins {list(sources)}")
        along = sum(source[self.axis] for source in sources)
        return (*sources[0][: self.axis], along, *sources[0][self.axis + 1 :])

    def steps(self, site: Site) -> list[Step]:
        steps, first = [], [0] * len(self.shape)
        for x, shape in zip(site.inputs, site.shapes, strict=True):
            y = _part(self.shape, site.output, first)
            copy = _copy(site, self.shape, x, y, _whole(shape, x, y))
            if first[self.axis] > 0:  # the first copy has cleared the row ends
                copy.y = View(y.buffer, y.offset, y.plane, 0)
            steps.append(copy)
            first[self.axis] += shape[self.axis]
        return steps
