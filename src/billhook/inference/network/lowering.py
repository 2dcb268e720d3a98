"""Lowering: the operations of a network to the steps that run them."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.graph import INPUT, Conv, Linear, Op, Other, Pool
from billhook.inference.kernels import (
    ACTIVATIONS,
    RESULT,
    SOURCE,
    WORKSPACE,
    Step,
    View,
    struct_array,
)
from billhook.inference.network.dense_steps import Dense, dense_conv, dense_linear
from billhook.inference.network.depthwise import depthwise_rows, depthwise_step
from billhook.inference.network.layout import PlaneLayout
from billhook.inference.network.placement import Placement
from billhook.inference.network.taps import conv_rows, panel_offsets, strided
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import floats, to_csr
from billhook.inference.weights.lanes import LaneRows, to_lanes
from billhook.inference.weights.panels import BlockedRows, SparseRows, panel_rows

__all__ = ["Lowering", "Native", "Packings", "native"]

Packed = BlockedRows | SparseRows | LaneRows
Packings = dict[Hashable, Packed]

NO_VIEW = View(-1, 0, 0, 0)
VECTOR_PLANE = 1


@dataclass
class Native:
    """Steps that run in one native call; what they point to lives in :attr:`Lowering.packed`."""

    steps: object
    count: int


class Lowering:
    """Turns operations into steps, by a plan, and holds the weights it packs for them.

    Args:
        ops: The operations, as :func:`billhook.inference.graph.capture.capture` gives them.
        input_shape: (C, H, W) of one sample.
        choices: One choice for each convolution and linear layer, by name.
        isa: The instruction set, an index into ``kernels.ISA_NAMES``.
        packings: What was packed before for other sizes of the same network, and takes what is
            packed now.
    """

    def __init__(
        self,
        ops: list[Op],
        input_shape: tuple[int, int, int],
        choices: Mapping[str, Choice],
        isa: int,
        packings: Packings | None = None,
    ) -> None:
        self._packings = {} if packings is None else packings
        self.ops, self.input_shape, self.choices, self.isa = ops, input_shape, choices, isa
        self.fused = {
            op.inputs[0]: i
            for i, op in enumerate(ops)
            if isinstance(op, Conv) and op.inputs[0] >= 0 and self._is_fused(ops[op.inputs[0]])
        }
        self.place = Placement(ops, input_shape)
        self.packed: list[Packed] = []
        self._keep: dict[object, np.ndarray | None] = {}
        self._offsets: list[np.ndarray] = []

    def _is_fused(self, op: Op) -> bool:
        """Whether the convolution after this one runs it; no other choice of the plan matters."""
        return isinstance(op, Conv) and self.choices[op.name].kernel == "fused"

    def program(self) -> list[Native | Dense]:
        """The whole network: runs of native steps, and what torch does between them."""
        parts: list[Native | Dense] = []
        pending: list[Step] = []
        if self._needs_import():
            pending.append(self.import_step())
        for index in range(len(self.ops)):
            layer = isinstance(self.ops[index], Conv | Linear)
            choice = self.choices[self.ops[index].name] if layer else None
            for part in self.lower(index, choice):
                if isinstance(part, Step):
                    pending.append(part)
                    continue
                if pending:
                    parts.append(native(pending))
                    pending = []
                parts.append(part)
        last = len(self.ops) - 1
        if self.place.is_planes(last) and not self._writes_result(last):
            pending.append(self._export(last))
        if pending:
            parts.append(native(pending))
        return parts

    def lower(self, index: int, choice: Choice | None) -> list[Step | Dense]:
        """The steps of one operation; none for a depthwise one that its successor runs."""
        op = self.ops[index]
        if isinstance(op, Conv):
            assert choice is not None
            if choice.kernel == "fused":
                return []
            if choice.kernel == "dense":
                source = op.inputs[0]
                return [dense_conv(op, self.view(source), self.view(index), self.shape(source))]
            return list(self.conv_steps(index, choice, self.filled_by(index)))
        if isinstance(op, Linear):
            assert choice is not None
            return [
                dense_linear(op, self.view(op.inputs[0]), self.view(index))
                if choice.kernel == "dense"
                else self._lanes(index, op)
            ]
        if isinstance(op, Pool):
            return [self._pool_step(index, op)]
        assert isinstance(op, Other)
        return list(self._other(index, op))

    def filled_by(self, index: int) -> int | None:
        """The depthwise operation that fills the panels of this one, if any."""
        return next((d for d, user in self.fused.items() if user == index), None)

    def _needs_import(self) -> bool:
        """Whether a sparse convolution reads the input as padded planes."""
        return any(
            isinstance(op, Conv) and self.imports(index, self.choices[op.name])
            for index, op in enumerate(self.ops)
        )

    def imports(self, index: int, choice: Choice) -> bool:
        """Whether a convolution that runs so reads the input as padded planes."""
        op = self.ops[index]
        return (
            isinstance(op, Conv)
            and INPUT in op.inputs
            and not strided(op)
            and choice.kernel not in ("dense", "depthwise")
            and not self._reads_input(index, choice)
        )

    def _reads_input(self, index: int, choice: Choice) -> bool:
        """Whether a convolution gathers its panels from the network's input as it lies."""
        op = self.ops[index]
        return (
            isinstance(op, Conv)
            and op.pointwise
            and op.inputs == (INPUT,)
            and choice.kernel == "spmm_packed"
            and self.place.layout(index).pitch == op.shape[2]
        )

    def _writes_result(self, index: int) -> bool:
        """Whether a sparse convolution's planes are the network's result as they come."""
        op = self.ops[index]
        return (
            isinstance(op, Conv)
            and index == len(self.ops) - 1
            and self.choices[op.name].kernel in ("spmm", "spmm_packed")
            and self.place.layout(index).pitch == op.shape[2]
        )

    def view(self, value: int) -> View:
        """Where a value lies."""
        if value == INPUT:
            _, height, width = self.input_shape
            return View(SOURCE, 0, height * width, width)
        if not self.place.is_planes(value):
            if value == len(self.ops) - 1:
                return View(RESULT, 0, VECTOR_PLANE, 1)
            return View(WORKSPACE, self.place.start(value), VECTOR_PLANE, 1)
        layout = self.place.layout(value)
        return View(WORKSPACE, self.place.start(value) + layout.lead, layout.size, layout.pitch)

    def operand_view(self, value: int) -> View:
        """Where a value lies with its padding; the input's is its copy in the workspace."""
        if value != INPUT:
            return self.view(value)
        layout = self.place.layout(INPUT)
        return View(WORKSPACE, self.place.start(INPUT) + layout.lead, layout.size, layout.pitch)

    def shape(self, value: int) -> tuple[int, ...]:
        return self.input_shape if value == INPUT else self.ops[value].shape

    def _keep_mask(self, value: int) -> np.ndarray | None:
        layout = self.place.layout(value)
        if layout not in self._keep:
            self._keep[layout] = keep_mask(layout)
        return self._keep[layout]

    def conv_steps(self, index: int, choice: Choice, depthwise: int | None) -> list[Step]:
        """A sparse convolution; ``depthwise`` is the operation that fills its panels, if any."""
        conv = self.ops[index]
        assert isinstance(conv, Conv)
        if choice.kernel == "depthwise":
            rows = self._packed((index, "depthwise"), lambda: depthwise_rows(conv))
            shape = self.shape(conv.inputs[0])
            return [depthwise_step(conv, rows, self.view(conv.inputs[0]), self.view(index), shape)]
        first = conv if depthwise is None else self.ops[depthwise]
        assert isinstance(first, Conv)
        source, prepare = self._source(index if depthwise is None else depthwise, first)
        layout = self.place.source_layout(index if depthwise is None else depthwise)
        packed = choice.kernel == "spmm_packed" or depthwise is not None
        if packed:
            width = kernels.LANES * choice.vectors
            rows = self._packed((index, width), lambda: self._panel_rows(conv, width))
        else:
            rows = self._plane_rows(index, conv, layout)
        target, pixels = self.view(index), self.place.layout(index).pixels_rounded
        keep = self._keep_mask(index)
        if self._reads_input(index, choice) or self._writes_result(index):
            pixels, keep = self.place.layout(index).pixels, None
        if self._writes_result(index):
            target = View(RESULT, 0, pixels, conv.shape[2])
        step = Step(
            op=kernels.SPMM,
            x=self.view(INPUT) if self._reads_input(index, choice) else source,
            y=target,
            addend=NO_VIEW,
            channels=math.prod(conv.weight.shape[1:]),
            pixels=pixels,
            vectors=choice.vectors,
            packed=int(packed),
            keep=kernels.pointer(keep),
            rows=rows.struct,
        )
        if depthwise is not None:
            fill = conv_rows(first, layout)
            self.packed.append(fill)
            step.depthwise = fill.struct
        elif packed:
            step.panel = kernels.pointer(self._panel(index, choice, conv, layout))
        return [*prepare, step]

    def _packed(self, key: Hashable, pack: Callable[[], BlockedRows]) -> BlockedRows:
        """What is the same for every size of the input, packed once."""
        rows = self._packings.get(key)
        if rows is None:
            rows = self._packings[key] = pack()
        assert isinstance(rows, BlockedRows)
        self.packed.append(rows)
        return rows

    def _panel_rows(self, conv: Conv, width: int) -> BlockedRows:
        return panel_rows(to_csr(conv.weight), width, floats(conv.bias), self.isa, conv.activation)

    def _plane_rows(self, index: int, conv: Conv, layout: PlaneLayout) -> BlockedRows:
        """Only the offsets depend on the size of the planes."""
        rows = conv_rows(conv, layout).grouped()
        known = self._packings.setdefault((index, "planes"), BlockedRows((rows,)))
        assert isinstance(known, BlockedRows)
        first = known.blocks[0]
        if first.group == rows.group:
            rows = replace(rows, row_ptr=first.row_ptr, value=first.value, bias=first.bias)
        packed = BlockedRows((rows,))
        self.packed.append(packed)
        return packed

    def _panel(self, index: int, choice: Choice, conv: Conv, layout: PlaneLayout) -> np.ndarray:
        """Where the rows of a convolution's panels begin."""
        if conv.groups != 1:
            raise ConfigurationError(
                f"the plan gathers panels for {conv.name}, which has {conv.groups} groups: only a "
                "convolution of one group reads all channels; compile the model again"
            )
        if self._reads_input(index, choice):
            plane = self.view(INPUT).plane
            offsets = np.arange(conv.weight.shape[1], dtype=np.int32) * np.int32(plane)
        else:
            offsets = panel_offsets(conv, layout)
        self._offsets.append(offsets)
        return offsets

    def _source(self, index: int, conv: Conv) -> tuple[View, list[Step]]:
        """What a convolution reads, and the step that splits it into phases first, if strided."""
        value = conv.inputs[0]
        if not strided(conv):
            return self.operand_view(value), []
        layout = self.place.source_layout(index)
        start = self.place.phases_start(index) + layout.lead
        sh, sw = conv.stride
        channels, height, width = self.shape(value)
        split = Step(
            op=kernels.COPY,
            x=self.view(value),
            y=View(WORKSPACE, start, layout.size * sh * sw, layout.pitch),
            addend=NO_VIEW,
            channels=channels,
            in_height=height,
            in_width=width,
            height=layout.height,
            width=layout.width,
            stride_height=sh,
            stride_width=sw,
        )
        return View(WORKSPACE, start, layout.size, layout.pitch), [split]

    def _copy(self, x: View, y: View, shape: tuple[int, ...]) -> Step:
        channels, height, width = shape
        return Step(
            op=kernels.COPY,
            x=x,
            y=y,
            addend=NO_VIEW,
            channels=channels,
            in_height=height,
            in_width=width,
            height=height,
            width=width,
            stride_height=1,
            stride_width=1,
        )

    def import_step(self) -> Step:
        """The network's input as padded planes."""
        return self._copy(self.view(INPUT), self.operand_view(INPUT), self.input_shape)

    def _export(self, value: int) -> Step:
        _, height, width = shape = self.shape(value)
        return self._copy(self.view(value), View(RESULT, 0, height * width, width), shape)

    def _pool_step(self, index: int, op: Pool) -> Step:
        channels, height, width = self.shape(op.inputs[0])
        # The kernel keeps room for windows beyond the last: one window's stride must not count.
        strides = [s if n > 1 else 1 for s, n in zip(op.stride, op.shape[1:], strict=True)]
        return Step(
            op=kernels.MAX_POOL if op.kind == "max" else kernels.AVERAGE_POOL,
            x=self.view(op.inputs[0]),
            y=self.view(index),
            addend=NO_VIEW,
            channels=channels,
            in_height=height,
            in_width=width,
            height=op.shape[1],
            width=op.shape[2],
            kernel_height=op.kernel[0],
            kernel_width=op.kernel[1],
            stride_height=strides[0],
            stride_width=strides[1],
            pad_top=op.padding[0],
            pad_left=op.padding[1],
            count_padding=int(op.count_padding),
        )

    def _other(self, index: int, op: Other) -> list[Step]:
        if op.kind == "concat":
            return self._concat(index, op)
        source = op.inputs[0]
        if op.kind == "flatten":
            if not self.place.is_planes(source):
                return [] if self.place.aliased(index) else [self._vector_copy(index, source)]
            _, height, width = shape = self.shape(source)
            start = self.view(index)
            return [
                self._copy(
                    self.view(source),
                    View(start.buffer, start.offset, height * width, width),
                    shape,
                )
            ]
        channels, height, width = self.shape(source)
        return [
            Step(
                op=kernels.MEAN if op.kind == "mean" else kernels.ADD,
                x=self.view(source),
                y=self.view(index),
                addend=self.view(op.inputs[1]) if op.kind == "add" else NO_VIEW,
                channels=channels,
                in_height=height,
                in_width=width,
                height=height,
                width=width,
                activation=ACTIVATIONS.index(op.activation),
            )
        ]

    def _vector_copy(self, index: int, source: int) -> Step:
        features = self.ops[index].shape[0]
        flat = (1, 1, features)
        x, y = self.view(source), self.view(index)
        return self._copy(
            View(x.buffer, x.offset, features, features),
            View(y.buffer, y.offset, features, features),
            flat,
        )

    def _concat(self, index: int, op: Other) -> list[Step]:
        """Copies of the parts that could not be computed in place."""
        steps, offset = [], 0
        layout = self.place.layout(index)
        for value in op.inputs:
            shape = self.shape(value)
            if not self.place.inside(value, index):
                y = self.view(index)
                y = View(y.buffer, y.offset + offset * layout.size, y.plane, y.pitch)
                steps.append(self._copy(self.view(value), y, shape))
            offset += shape[0]
        return steps

    def _lanes(self, index: int, op: Linear) -> Step:
        lanes = to_lanes(to_csr(op.weight), floats(op.bias), op.activation)
        self.packed.append(lanes)
        x, y = self.view(op.inputs[0]), self.view(index)
        return Step(op=kernels.LINEAR, x=x, y=y, addend=NO_VIEW, lanes=lanes.struct)


def native(steps: list[Step]) -> Native:
    """The steps as the native call takes them."""
    return Native(struct_array(steps), len(steps))


def keep_mask(layout: PlaneLayout) -> np.ndarray | None:
    """-1 for the pixels of a plane and 0 for its row ends; None where there are only pixels."""
    if layout.pitch == layout.width and layout.pixels == layout.pixels_rounded:
        return None
    keep = np.zeros(layout.pixels_rounded, np.int32)
    keep[: layout.pixels].reshape(layout.height, layout.pitch)[:, : layout.width] = -1
    return keep
