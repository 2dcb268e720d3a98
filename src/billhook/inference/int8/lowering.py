"""A program in 8 bits as the steps of one native call."""

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from billhook.inference.int8 import bindings
from billhook.inference.int8.bindings import Step, View, Window
from billhook.inference.int8.choices import group_of, lines_of, matrix_of
from billhook.inference.int8.ops import (
    INPUT,
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Multiply,
    Op,
    Pool,
    Program,
    Quantise,
    Select,
    Table,
)
from billhook.inference.int8.packing import (
    Packed,
    Rows,
    pack_blocks,
    pack_depthwise,
    pack_vector,
    pack_windows,
    rows_for,
)
from billhook.inference.int8.places import places_of, regions_of
from billhook.inference.int8.reference import add_scales, multiply_scale
from billhook.inference.int8.workspace import LINE, SLACK, place
from billhook.inference.plan import Choice

__all__ = ["Lowered", "lower", "workspace_bytes", "workspace_of"]

WORKSPACE, SOURCE, RESULT = range(3)
NONE = View(-1, 0, 0)


@dataclass
class Lowered:
    """Steps, the bytes of their workspace, and the packed weights and arrays they point to."""

    steps: list[Step] = field(default_factory=list)
    size: int = 0
    packed: list[Packed] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    of_layer: dict[str, Step] = field(default_factory=dict)


def lower(program: Program, choices: Mapping[str, Choice], isa: str | None) -> Lowered:
    """The steps for one sample; buffers are the workspace, the input and the result.

    Without an instruction set nothing is packed, and steps point to nothing.
    """
    return _Lowering(program, choices, isa).run()


def workspace_bytes(program: Program) -> int:
    """Bytes of the workspace of one sample."""
    return _Lowering(program, {}, None).result.size


class _Lowering:
    def __init__(self, program: Program, choices: Mapping[str, Choice], isa: str | None) -> None:
        self.program, self.choices, self.isa = program, choices, isa
        self.result = Lowered()
        self.places = places_of(program)
        self.regions = regions_of(program, self.places)
        self.result.size = place(list(self.regions.values()))

    def run(self) -> Lowered:
        self._quantise_input()
        for index, op in enumerate(self.program.ops):
            self._op(index, op)
        last = len(self.program.ops) - 1
        if self.program.range(last) is not None:
            self._dequantise(last)
        return self.result

    def view(self, value: int) -> View:
        """A value's bytes; the result's floats go where they are wanted."""
        if value == len(self.program.ops) - 1 and self.program.range(value) is None:
            return View(RESULT, 0, 4)
        own = self.places[value]
        return View(WORKSPACE, self.regions[own.owner].start + own.offset, own.plane)

    def _step(self, op: int, x: View, y: View, **rest: object) -> Step:
        fields = {"addend": NONE, "lines": 1, **rest}
        step = Step(op=op, x=x, y=y, **fields)
        self.result.steps.append(step)
        return step

    def _quantise_input(self) -> None:
        channels, height, width = self.program.input_shape
        own = self.program.input_range
        self._step(
            bindings.QUANTISE,
            View(SOURCE, 0, 0),
            self.view(INPUT),
            channels=channels,
            pixels=height * width,
            by_sample=int(self.program.by_sample),
            scale=1 / own.step,
            shift=own.zero,
        )

    def _dequantise(self, value: int) -> None:
        shape, own = self.program.shape(value), self.program.bytes_range(value)
        pixels = shape[1] * shape[2] if len(shape) == 3 else 1
        self._step(
            bindings.DEQUANTISE,
            self.view(value),
            View(RESULT, 0, 0),
            channels=shape[0],
            pixels=pixels,
            by_sample=int(self.program.by_sample),
            scale=own.step,
            shift=own.zero,
        )

    def _op(self, index: int, op: Op) -> None:
        if isinstance(op, Conv):
            self._conv(index, op)
        elif isinstance(op, Linear):
            self._linear(index, op)
        elif isinstance(op, Concat):
            self._concat(index, op)
        elif isinstance(op, Add | Multiply | Table):
            self._elements(index, op)
        elif isinstance(op, Select):
            self._select(index, op)
        else:
            self._simple(index, op)

    def _simple(self, index: int, op: Op) -> None:
        """A step of one quad, or one vector, after another."""
        shape = self.program.shape(op.inputs[0])
        x, y = self.view(op.inputs[0]), self.view(index)
        pixels = shape[1] * shape[2] if len(shape) == 3 else 1
        common = {"channels": shape[0], "pixels": pixels}
        if isinstance(op, Pool):
            kind = bindings.MAX_POOL if op.kind == "max" else bindings.AVERAGE_POOL
            window = self._window(
                op.inputs[0],
                op,
                kernel=op.kernel,
                stride=op.stride,
                dilation=(1, 1),
                padding=op.padding,
            )
            count = int(op.count_padding)
            self._step(kind, x, y, **common, window=window, count_padding=count)
        elif isinstance(op, Flatten):
            self._step(bindings.FLATTEN, x, y, **common)
        elif isinstance(op, Quantise):
            own = self.program.bytes_range(index)
            factors = {"scale": 1 / own.step, "shift": own.zero}
            self._step(bindings.QUANTISE_VECTOR, x, y, **common, **factors)
        else:
            (scale,), shift = add_scales(self.program, op, shape)
            self._step(bindings.MEAN, x, y, **common, scale=scale, shift=shift)

    def _elements(self, index: int, op: Add | Multiply | Table) -> None:
        """Element by element: a vector is a quad of as many pixels as its bytes fill."""
        shape, x, y = self.program.shape(op.inputs[0]), self.view(op.inputs[0]), self.view(index)
        vector = len(shape) == 1
        common: dict[str, Any] = {
            "channels": 4 if vector else shape[0],
            "pixels": -(-shape[0] // 4) if vector else shape[1] * shape[2],
        }
        if op.inputs[1:]:
            common["addend"] = self.view(op.inputs[1])
        if isinstance(op, Table):
            step = self._step(bindings.TABLE, x, y, **common)
            step.note = {"table": f"{index}.table"}
            step.table = self._array(op.table)
            return
        if isinstance(op, Add):
            scales, shift = add_scales(self.program, op, shape)
            factors = {"scale": scales[0], "addend_scale": [*scales, 0.0][1], "shift": shift}
            self._step(bindings.ADD, x, y, **common, **factors)
            return
        first, second = (self.program.bytes_range(value) for value in op.inputs)
        self._step(
            bindings.MULTIPLY,
            x,
            y,
            **common,
            by_channel=int(self.program.shape(op.inputs[1]) != shape),
            zero=first.zero,
            addend_zero=second.zero,
            scale=multiply_scale(self.program, op),
            shift=self.program.bytes_range(index).zero,
        )

    def _select(self, index: int, op: Select) -> None:
        source = self.program.shape(op.inputs[0])
        step = self._step(
            bindings.SELECT,
            self.view(op.inputs[0]),
            self.view(index),
            channels=source[0],
            selected=op.shape[0],
            pixels=math.prod(source[1:]),
        )
        step.note = {"index": f"{index}.index"}
        step.index = self._array(op.index)

    def _window(
        self,
        source: int,
        op: Op,
        *,
        kernel: tuple[int, ...],
        stride: tuple[int, int],
        dilation: tuple[int, int],
        padding: tuple[int, ...],
    ) -> Window:
        _, in_height, in_width = self.program.shape(source)
        return Window(
            *(in_height, in_width, *op.shape[1:], *kernel, *stride, *dilation, *padding[:2]),
            self.program.bytes_range(source).zero,
        )

    def _concat(self, index: int, op: Concat) -> None:
        """Copies of what could not be made in place."""
        first = 0
        for value in op.inputs:
            channels, *sides = self.program.shape(value)
            own, whole = self.places[value], self.places[index]
            at = whole.offset + first // 4 * whole.plane
            if (own.owner, own.offset) != (whole.owner, at) or first % 4:
                self._step(
                    bindings.COPY,
                    self.view(value),
                    self.view(index),
                    channels=channels,
                    pixels=math.prod(sides),
                    first=first,
                )
            first += channels

    def _conv(self, index: int, op: Conv) -> None:
        choice, source = self.choices[op.name], op.inputs[0]
        window = self._window(
            source,
            op,
            kernel=op.weight.shape[2:],
            stride=op.stride,
            dilation=op.dilation,
            padding=op.padding,
        )
        common: dict[str, Any] = {
            "channels": self.program.shape(source)[0],
            "pixels": op.shape[1] * op.shape[2],
            "window": window,
        }
        if choice.kernel == "depthwise":
            step = self._step(bindings.DEPTHWISE, self.view(source), self.view(index), **common)
        else:
            step = self._step(
                bindings.CONV,
                self.view(source),
                self.view(index),
                **common,
                addend=self.view(op.inputs[1]) if op.inputs[1:] else NONE,
                addend_scale=op.addend_scale,
                gather=int(not op.pointwise),
                lines=lines_of(choice),
            )
        self._layer(index, op, step)

    def _linear(self, index: int, op: Linear) -> None:
        step = self._step(
            bindings.LINEAR,
            self.view(op.inputs[0]),
            self.view(index),
            channels=op.weight.shape[1],
            pixels=math.prod(op.shape[1:]),
            relu=int(op.relu),
        )
        self._layer(index, op, step)

    def _layer(self, index: int, op: Conv | Linear, step: Step) -> None:
        """Gives a step its weight, by name and packed."""
        choice = self.choices[op.name]
        tensors = {"weight": "weight", "bias": "bias", "factors": "scale"}
        note = {name: f"{index}.{own}" for name, own in tensors.items()}
        if choice.kernel != "depthwise":
            note["kernel"] = choice.kernel
        step.note = note | ({"groups": op.groups} if isinstance(op, Conv) else {})
        self.result.of_layer[op.name] = step
        if self.isa is None:
            return
        if isinstance(op, Linear):
            step.matrix = self._matrix(op, choice, self.isa)
        elif choice.kernel == "depthwise":
            step.depthwise = self._filters(op, self.isa)
        else:
            name, packed = self._product(op, choice, self.isa)
            setattr(step, name, packed)

    def _filters(self, op: Conv, isa: str) -> int:
        """The taps of each channel."""
        channels, _, height, width = op.weight.shape
        rows = rows_for(isa, Rows(op.weight.reshape(channels, -1), op.bias, op.scale))
        packed = pack_depthwise(rows, (height, width), op.stride[1], words=isa == "avx2")
        return self._keep(packed)

    def _product(self, op: Conv | Linear, choice: Choice, isa: str) -> tuple[str, int]:
        """A packing for maps, and the step's name for it."""
        rows = rows_for(isa, Rows(matrix_of(op), op.bias, op.scale))
        if choice.kernel == "windows" and isa == "avx512vbmi":
            return "windows", self._keep(pack_windows(rows, stream=False))
        group = group_of(choice)
        dense, words = choice.kernel == "all_blocks", isa == "avx2"
        return "rows", self._keep(pack_blocks(rows, group, dense=dense, words=words))

    def _matrix(self, op: Linear, choice: Choice, isa: str) -> int:
        matrix = bindings.MatrixStruct(rows=len(op.weight), columns=op.weight.shape[1])
        if len(op.shape) > 1:
            name, packed = self._product(op, choice, isa)
            setattr(matrix, {"rows": "batch", "windows": "batch_windows"}[name], packed)
        elif choice.kernel == "windows" and isa == "avx512vbmi":
            rows = Rows(op.weight, op.bias, op.scale)
            matrix.vector_windows = self._keep(pack_windows(rows, stream=True))
        else:
            rows = rows_for(isa, Rows(op.weight, op.bias, op.scale))
            group = 16 if choice.kernel == "all_blocks" else group_of(choice)
            matrix.vector = self._keep(pack_vector(rows, group, words=isa == "avx2"))
        return self._keep(Packed(matrix))

    def _array(self, values: NDArray[Any]) -> int:
        """The address of an array, which lives as long as the steps."""
        self.result.arrays.append(np.ascontiguousarray(values))
        return self.result.arrays[-1].ctypes.data

    def _keep(self, packed: Packed) -> int:
        """The address of a packing, which lives as long as the steps."""
        self.result.packed.append(packed)
        return _address(packed.struct)


def _address(struct: ctypes.Structure) -> int:
    return ctypes.addressof(struct)


def workspace_of(size: int) -> NDArray[np.uint8]:
    """Zeros that begin at a cache line."""
    buffer = np.zeros(size + SLACK + LINE, np.uint8)
    start = -buffer.ctypes.data % LINE
    return buffer[start : start + size + SLACK]
