"""Convolutions: sparse rows over padded planes or gathered panels, or the depthwise kernel."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from billhook.inference import kernels
from billhook.inference.graph.dense import torch_conv
from billhook.inference.graph.depthwise import depthwise_rows, depthwise_step, has_kernel
from billhook.inference.graph.ops import (
    NO_VIEW,
    Layer,
    Op,
    Shape,
    Site,
    Target,
    is_count,
    only,
    require,
    step_between,
)
from billhook.inference.graph.planes import LINE, keep_mask, round_up
from billhook.inference.graph.taps import conv_rows, reach, taps, taps_note
from billhook.inference.kernels import CONV_ACTIVATIONS, LANES, Step, View
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import Csr, csr_for, floats, to_csr
from billhook.inference.weights.packing import TapsStruct, tap_offsets
from billhook.inference.weights.panels import BlockedRows, panel_rows

__all__ = ["Conv"]

MAX_CONV_SIDE = 2**15  # of kernels, strides and padding


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution with a weight of (filters, channels / groups, height, width).

    ``padding`` is (top, left, bottom, right), of zeros.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    type_name: ClassVar[str] = "Conv"
    kind: ClassVar[str] = "conv"
    activations: ClassVar[tuple[str, ...]] = CONV_ACTIVATIONS

    # What it computes.

    @property
    def depthwise(self) -> bool:
        """One filter per channel."""
        return self.groups == self.weight.shape[0] and self.weight.shape[1] == 1

    @property
    def pointwise(self) -> bool:
        """1x1, stride 1, no padding, one group."""
        return (
            tuple(self.weight.shape[2:]) == self.stride == (1, 1)
            and not any(self.padding)
            and self.groups == 1
        )

    @property
    def positions(self) -> int:
        return self.shape[1] * self.shape[2]

    def work(self, _: Sequence[Shape]) -> int:
        return self.groups * math.prod(self.weight.shape[1:]) * self.positions

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """The result's height and width for an input's; below 1 where the kernel does not fit."""
        sides = zip(
            (height, width),
            self.weight.shape[2:],
            self.stride,
            self.dilation,
            self.padding[:2],
            self.padding[2:],
            strict=True,
        )
        rows, columns = (
            (n + before + after - d * (k - 1) - 1) // s + 1 for n, k, s, d, before, after in sides
        )
        return rows, columns

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        source, weight = only(sources, 3), tuple(self.weight.shape)
        require(
            len(weight) == 4
            and is_count(*weight[:2], self.groups)
            and is_count(*weight[2:], *self.stride, *self.dilation, most=MAX_CONV_SIDE)
            and is_count(*self.padding, least=0, most=MAX_CONV_SIDE)
            and (len(self.padding), len(self.stride), len(self.dilation)) == (4, 2, 2)
            and weight[0] % self.groups == 0
            and weight[1] * self.groups == source[0],
            f"cannot filter {source} with {weight}",
        )
        return (weight[0], *self.size_for(source[1], source[2]))

    def kernels_for(self, after: Op | None = None, /) -> tuple[str, ...]:
        fills = self.depthwise and isinstance(after, Conv) and after.pointwise
        runs = {
            "dense": True,
            "spmm": True,
            "spmm_packed": self.groups == 1,
            "depthwise": has_kernel(self),
            "fused": fills,
        }
        return tuple(kernel for kernel, can in runs.items() if can)

    # How its values lie.

    @property
    def strided(self) -> bool:
        """Whether it reads its input in phases, one for each residue of the stride."""
        return self.stride != (1, 1)

    @property
    def tied(self) -> tuple[int, ...]:
        return () if self.strided else self.inputs

    def may_run_with_next(self) -> bool:
        return self.depthwise

    def phase_size(self, source: Shape) -> tuple[int, int]:
        """Height and width of each phase that the input is split into."""
        return -(-source[1] // self.stride[0]), -(-source[2] // self.stride[1])

    def pitch_for(self, source: Shape) -> int:
        """The least pitch at which taps that reach beyond a row read its padding."""
        width, taps = self.phase_size(source)[1], reach(self)
        return max(width - taps.left, width, self.shape[2] + taps.right)

    def margins(self, height: int, pitch: int) -> tuple[int, int]:
        """Zeros that it reads before the first and after the last of ``height`` rows."""
        taps = reach(self)
        lead = max(0, -(taps.top * pitch + taps.left))
        last = round_up(self.shape[1] * pitch, LANES) + taps.bottom * pitch + taps.right
        return round_up(lead, LINE), max(0, last - height * pitch)

    # How it runs.

    def imports(self, site: Site, choice: Choice, /) -> bool:
        return (
            site.external
            and not self.strided
            and choice.kernel != "depthwise"
            and not self._gathers_input(site, choice)
        )

    def _gathers_input(self, site: Site, choice: Choice) -> bool:
        """Whether it gathers its panels from an input or a constant as it lies."""
        return self.pointwise and site.external and self._packs(choice) and self._is_flat(site)

    def _packs(self, choice: Choice) -> bool:
        """Whether its operand is gathered into panels."""
        return choice.kernel == "spmm_packed" or (choice.kernel == "dense" and self.groups == 1)

    def _is_flat(self, site: Site) -> bool:
        """Whether the result's rows have no ends."""
        assert site.layout is not None
        return site.layout.pitch == self.shape[2]

    def lower(self, index: int, site: Site, choice: Choice, target: Target) -> list[Step]:
        if choice.kernel == "fused":
            return []  # the operation after it runs it
        if choice.kernel == "depthwise":
            step = depthwise_step(self, site.inputs[0], site.output, site.shapes[0])
            step.note = self.note(index)
            key = (index, "depthwise")
            target.bind(step, "rows", lambda: target.pack(key, lambda: depthwise_rows(self)))
            return [step]
        x, prepare = self.operand(site)
        source = site.source
        assert source is not None
        own = taps(self, source.size, source.pitch)
        if not self._packs(choice):
            step = self._product(site, choice, target, x)
            step.note = {**self.note(index), **step.note, "taps": taps_note(own)}
            target.bind(step, "rows", lambda: self._plane_rows(index, own, choice, target))
            return [*prepare, step]
        if self._gathers_input(site, choice):
            x = site.inputs[0]
            own = taps(self, x.plane, x.pitch)
        step = self._product(site, choice, target, x)
        step.note = {**self.note(index), **step.note, "taps": taps_note(own)}
        target.bind(step, "rows", lambda: self._panel_rows(index, choice, target))
        at = (index, own.plane, own.pitch)
        target.point(step, "panel", lambda: target.array(at, lambda: tap_offsets(own)))
        return [*prepare, step]

    def lower_after(
        self,
        before: tuple[int, "Conv", Site],
        index: int,
        site: Site,
        choice: Choice,
        target: Target,
    ) -> list[Step]:
        """The steps of a pointwise convolution whose panels the depthwise one before it fills."""
        number, first, first_site = before
        x, prepare = first.operand(first_site)
        source = first_site.source
        assert source is not None
        own = taps(first, source.size, source.pitch)
        step = self._product(site, choice, target, x)
        fill = {**first.note(number), "taps": taps_note(own)}
        step.note = {**self.note(index), **step.note, "fill": fill}
        target.bind(step, "rows", lambda: self._panel_rows(index, choice, target))
        target.bind(
            step,
            "depthwise",
            lambda: target.hold(conv_rows(first, own, to_csr(first.weight))),
        )
        return [*prepare, step]

    def operand(self, site: Site) -> tuple[View, list[Step]]:
        """What it reads, and the step that splits its input into phases first, if strided."""
        if not self.strided:
            return site.operands[0], []
        assert site.source is not None
        assert site.phases is not None
        layout, (sh, sw) = site.source, self.stride
        source, x = site.shapes[0], site.phases
        phases = View(x.buffer, x.offset, layout.size * sh * sw, layout.pitch)
        shape = (source[0], layout.height, layout.width)
        split = step_between(kernels.COPY, site.inputs[0], source, phases, shape)
        split.stride_height, split.stride_width = self.stride
        return x, [split]

    def _product(self, site: Site, choice: Choice, target: Target, x: View) -> Step:
        """The sparse product, without its rows; the network's result has no row ends."""
        layout, y = site.layout, site.output
        assert layout is not None
        to_result = self.writes_result(site, choice)
        whole = to_result or self._gathers_input(site, choice)
        if to_result and site.result is not None:
            y = site.result
        step = Step(
            op=kernels.SPMM,
            x=x,
            y=y,
            addend=NO_VIEW,
            extra=NO_VIEW,
            mask=NO_VIEW,
            channels=math.prod(self.weight.shape[1:]),
            pixels=layout.pixels if whole else layout.pixels_rounded,
            vectors=choice.vectors,
            packed=int(self._packs(choice)),
        )
        if not whole:
            step.note = {"keep": [layout.height, layout.width, layout.pitch]}
            target.point(step, "keep", lambda: target.array(layout, lambda: keep_mask(layout)))
        return step

    def writes_result(self, site: Site, choice: Choice, /) -> bool:
        by_tiles = choice.kernel in ("spmm", "spmm_packed", "dense")
        return site.result is not None and by_tiles and self._is_flat(site)

    def _panel_rows(self, index: int, choice: Choice, target: Target) -> BlockedRows:
        width = kernels.LANES * choice.vectors
        return target.pack(
            (index, width, choice.kernel),
            lambda: self.let_go(
                panel_rows(self._csr(choice), width, floats(self.bias), target.isa, self.activation)
            ),
        )

    def _csr(self, choice: Choice) -> Csr:
        return csr_for(self.weight, choice.kernel == "dense")

    def _plane_rows(
        self, index: int, own: TapsStruct, choice: Choice, target: Target
    ) -> BlockedRows:
        """Rows of offsets into planes. Only the offsets depend on the size of the planes."""
        rows = conv_rows(self, own, self._csr(choice))
        known = target.packings.setdefault((index, "planes", choice.kernel), BlockedRows((rows,)))
        assert isinstance(known, BlockedRows)
        first = known.blocks[0]
        if first.group == rows.group:
            rows = replace(rows, row_ptr=first.row_ptr, value=first.value, bias=first.bias)
        return target.hold(BlockedRows((rows,)))

    def dense_form(self, source: Shape) -> Callable[[], object]:
        operand = torch.rand((1, *source), dtype=torch.float32)
        return lambda: torch_conv(self, operand)
