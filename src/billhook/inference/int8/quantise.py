"""A captured fp32 network to one in 8 bits, whose ranges are known: weights to s8."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from billhook.errors import CompileError
from billhook.inference import graph
from billhook.inference.graph import INPUT, UnsupportedError
from billhook.inference.int8.floats import elements_of
from billhook.inference.int8.functions import table_of
from billhook.inference.int8.ops import (
    Add,
    Concat,
    Conv,
    Flatten,
    Linear,
    Mean,
    Multiply,
    Op,
    Pool,
    Program,
    Quantise,
    Range,
    Select,
    Shape,
    Table,
)

__all__ = ["quantise", "quantise_weight"]

SUM_LIMIT = 2**31 - 1  # of sums, and of results before they are saturated
BIAS_LIMIT = 2**29
MAX_COLUMNS = 2**16  # of a matrix, and few enough that sums stay within 32 bits


def quantise(
    network: graph.Graph, ranges: Mapping[int, Range], takes: tuple[int, ...] = ()
) -> Program:
    """The program in 8 bits of a network of one input of maps and one output.

    ``takes`` is one sample as callers give it, as ``Program`` has it.

    Raises:
        UnsupportedError: It has something that does not run in 8 bits.
        CompileError: A layer's weights do not fit.
    """
    channels, height, width = network.inputs[0].form
    shape = (channels, height, width)
    made = _Builder(network.ops, shape, network.outputs[0].shape, ranges, takes).run()
    return replace(made, input_name=network.inputs[0].name)


def quantise_weight(
    weight: NDArray[np.float64], bias: NDArray[np.float64], step: float
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights (rows, ...) as s8 and each row's step; inputs have ``step``.

    A row's step is its largest magnitude by 127, or more where its bias would leave 32 bits.

    >>> value, steps = quantise_weight(np.array([[1.27, -0.5, 0.0]]), np.zeros(1), 1.0)
    >>> value.tolist(), round(float(steps[0]), 6)
    ([[127, -50, 0]], 0.01)
    """
    flat = np.abs(weight.reshape(len(weight), -1))
    steps = np.maximum(flat.max(axis=1, initial=0.0) / 127, np.abs(bias) / (step * BIAS_LIMIT))
    steps[steps == 0] = 1.0
    shaped = steps.reshape(-1, *[1] * (weight.ndim - 1))
    return np.rint(weight / shaped).astype(np.int8), steps


@dataclass
class _Builder:
    source: Sequence[graph.Op]
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, ...]
    ranges: Mapping[int, Range]
    takes: tuple[int, ...]
    ops: list[Op] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=lambda: {INPUT: INPUT})

    def run(self) -> Program:
        fused = self._fused_sums()
        for index, op in enumerate(self.source):
            if index in fused:
                continue  # computed where its sum is
            last = len(self.takes) == 1 and index == len(self.source) - 1
            if isinstance(op, graph.Conv) and not last:
                self.values[index] = self._conv(index, op)
            elif isinstance(op, graph.Conv | graph.Linear):
                self.values[index] = self._linear(op)
            elif isinstance(op, graph.Pool):
                self.values[index] = self._pool(index, op)
            elif isinstance(op, graph.Other):
                self.values[index] = self._other(index, op, fused)
            else:
                self.values[index] = self._element(index, op)
        if self.values.get(len(self.source) - 1) != len(self.ops) - 1:
            raise UnsupportedError("the output is not the last operation's result")
        own, ops = self.ranges[INPUT], tuple(self.ops)
        program = Program(self.input_shape, self.output_shape, own, ops, self.takes)
        check_sums(program)
        return program

    def _fused_sums(self) -> dict[int, int]:
        """Convolutions whose only reader adds them to a value that is there before: by number."""
        readers: dict[int, list[int]] = {}
        for index, op in enumerate(self.source):
            for value in op.inputs:
                readers.setdefault(value, []).append(index)
        fused: dict[int, int] = {}
        for index, op in enumerate(self.source):
            if not (isinstance(op, graph.Other) and op.kind == "add"):
                continue
            for value in sorted(op.inputs, reverse=True):
                conv = self.source[value] if value != INPUT else None
                if (
                    isinstance(conv, graph.Conv)
                    and readers[value] == [index]
                    and conv.activation == "none"
                    and not conv.depthwise
                    and len(set(op.inputs)) == 2
                ):
                    fused[value] = index
                    break
        return fused

    def _add(self, op: Op) -> int:
        self.ops.append(op)
        return len(self.ops) - 1

    def _range(self, value: int) -> Range:
        """The range of a value of bytes of the new program."""
        own = self.ranges[INPUT] if value == INPUT else self.ops[value].range
        assert own is not None
        return own

    def _name(self, name: str) -> str:
        taken = {op.name for op in self.ops}
        return next(n for n in (name, *(f"{name}.{i}" for i in range(2, 10**6))) if n not in taken)

    def _bytes(self, value: int) -> int:
        """A value of the source as bytes."""
        new = self.values[value]
        if new == INPUT or self.ops[new].range is not None:
            return new
        op = self.ops[new]
        self.values[value] = self._add(
            Quantise(self._name(f"{op.name}.bytes"), (new,), op.shape, self.ranges[value])
        )
        return self.values[value]

    def _conv(self, made: int, op: graph.Conv, addend: int | None = None) -> int:
        """The convolution that makes the source's value ``made``, with an addend a sum."""
        x, own = self._bytes(op.inputs[0]), self.ranges[made]
        inputs: tuple[int, ...] = (x,)
        zero, addend_scale = float(own.zero), 0.0
        if addend is not None:
            other = self._bytes(addend)
            inputs, addend_scale = (x, other), self._range(other).step / own.step
            zero -= self._range(other).zero * addend_scale
        source = self._range(x)
        value, bias, steps = self._weights(op, source, zero * own.step)
        scale = (source.step * steps / own.step).astype(np.float32)
        return self._add(
            Conv(
                op.name,
                inputs,
                op.shape,
                own,
                weight=value,
                bias=bias,
                scale=scale,
                stride=op.stride,
                padding=op.padding,
                dilation=op.dilation,
                groups=op.groups,
                addend_scale=addend_scale,
            )
        )

    def _weights(
        self, op: graph.Conv | graph.Linear, source: Range, constant: float
    ) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float64]]:
        """Bytes, biases with ``constant`` (of the result) and the inputs' zero in them, steps."""
        weight = op.dense_weight.double().numpy()
        bias = np.zeros(len(weight)) if op.bias is None else op.bias.double().numpy()
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise CompileError(f"{op.name} has weights that are not finite")
        value, steps = quantise_weight(weight, bias + constant, source.step)
        sums = value.reshape(len(value), -1).astype(np.int64).sum(axis=1)
        integers = np.rint((bias + constant) / (source.step * steps)) - source.zero * sums
        if np.abs(integers).max(initial=0) > SUM_LIMIT:
            raise UnsupportedError(f"{op.name} has too many inputs for sums of 32 bits")
        if math.prod(weight.shape[1:]) * getattr(op, "groups", 1) > MAX_COLUMNS:
            raise UnsupportedError(f"{op.name} has more inputs than the kernels count")
        return value, integers.astype(np.int32), steps

    def _linear(self, op: graph.Conv | graph.Linear) -> int:
        x = self._bytes(op.inputs[0])
        if op.activation == "relu6":
            raise UnsupportedError(f"{op.name}, a linear layer with ReLU6")
        source = self._range(x)
        value, bias, steps = self._weights(op, source, 0.0)
        scale = (source.step * steps).astype(np.float32)
        value, relu = value.reshape(len(value), -1), op.activation == "relu"
        return self._add(Linear(op.name, (x,), op.shape, None, value, bias, scale, relu=relu))

    def _pool(self, index: int, op: graph.Pool) -> int:
        x = self._same_range(op.inputs[0], index)
        return self._add(
            Pool(
                self._name(op.name),
                (x,),
                op.shape,
                self.ranges[index],
                kind=op.kind,
                kernel=op.kernel,
                stride=op.stride,
                padding=op.padding,
                count_padding=op.count_padding,
            )
        )

    def _same_range(self, value: int, index: int) -> int:
        """A value of the source in the range of the operation that reads it."""
        x = self._bytes(value)
        if self._range(x) == self.ranges[index]:
            return x
        name = self._name(f"{self.source[index].name}.range")
        return self._add(Add(name, (x,), self._shape(x), self.ranges[index]))

    def _shape(self, value: int) -> Shape:
        """Of a value of the new program."""
        return self.input_shape if value == INPUT else self.ops[value].shape

    def _other(self, index: int, op: graph.Other, fused: Mapping[int, int]) -> int:
        if op.kind == "add":
            return self._sum(index, op, fused)
        name, own = self._name(op.name), self.ranges[index]
        if op.kind == "concat":
            return self._joined(index, op)
        x = self._bytes(op.inputs[0])
        shape = self._shape(x)
        if op.kind == "flatten":
            return x if len(shape) == 1 else self._flatten(index, op)
        if len(shape) != 3:
            raise UnsupportedError(f"{op.name} works on a vector")
        if op.kind == "mean":
            return self._add(Mean(name, (x,), op.shape[:1], own))
        if op.kind == "activation":
            return self._add(Add(name, (x,), op.shape, own))
        raise UnsupportedError(f"{op.name} ({op.kind}) has no 8-bit form")

    def _joined(self, index: int, op: graph.Op) -> int:
        inputs = tuple(self._same_range(value, index) for value in op.inputs)
        return self._add(Concat(self._name(op.name), inputs, op.shape, self.ranges[index]))

    def _element(self, index: int, op: graph.Op) -> int:
        """What works on elements, or only moves them."""
        name, own = self._name(op.name), self.ranges[index]
        if isinstance(op, graph.Join) and op.axis == 0:
            return self._joined(index, op)
        if isinstance(op, graph.Rearrange | graph.Slice):
            return self._select(index, op)
        inputs = tuple(self._bytes(value) for value in op.inputs)
        if isinstance(op, graph.Elementwise):
            table = table_of(op, self._range(inputs[0]), own)
            return self._add(Table(name, inputs, op.shape, own, table))
        if isinstance(op, graph.Binary):
            first, second = (self._shape(value) for value in inputs)
            if op.function == "mul" and second in (first, first[:1]):
                return self._add(Multiply(name, inputs, op.shape, own))
            if op.function == "add" and first == second:
                return self._add(Add(name, inputs, op.shape, own))
        raise UnsupportedError(f"{op.name} has no 8-bit form")

    def _select(self, index: int, op: graph.Rearrange | graph.Slice) -> int:
        """Channels in another order, if that is all that changes."""
        source = self._shape(self._bytes(op.inputs[0]))
        pixels = math.prod(source[1:])
        elements = elements_of(op, source).reshape(op.shape[0], -1)
        channels = elements[:, 0] // pixels
        expected = channels[:, None] * pixels + np.arange(pixels)
        if elements.shape != expected.shape or (elements != expected).any():
            raise UnsupportedError(f"{op.name} moves pixels, which has no 8-bit form")
        x = self._same_range(op.inputs[0], index)
        order = channels.astype(np.int32)
        return self._add(Select(self._name(op.name), (x,), op.shape, self.ranges[index], order))

    def _flatten(self, index: int, op: graph.Other) -> int:
        x = self._same_range(op.inputs[0], index)
        return self._add(Flatten(self._name(op.name), (x,), op.shape, self.ranges[index]))

    def _sum(self, index: int, op: graph.Other, fused: Mapping[int, int]) -> int:
        """A sum: where a convolution makes one term, it makes the sum."""
        for value in op.inputs:
            if fused.get(value) == index:
                conv = self.source[value]
                assert isinstance(conv, graph.Conv)
                rest = next(v for v in op.inputs if v != value)
                return self._conv(index, conv, addend=rest)
        inputs = tuple(self._bytes(value) for value in op.inputs)
        return self._add(Add(self._name(op.name), inputs, op.shape, self.ranges[index]))


def check_sums(program: Program) -> None:
    """Whether no sum, and no result before it is saturated, can leave 32 bits.

    Raises:
        CompileError: One could.
    """
    for _, op in program.layers():
        size = np.abs(op.weight.reshape(len(op.weight), -1).astype(np.int64)).sum(axis=1) * 255
        most = size + np.abs(op.bias.astype(np.int64))
        largest = np.zeros(1)  # of a linear layer floats are not rounded
        if isinstance(op, Conv):
            largest = most * op.scale.astype(np.float64) + 255 * op.addend_scale
        if most.max(initial=0) > SUM_LIMIT or not largest.max(initial=0) < SUM_LIMIT / 2:
            raise CompileError(
                f"{op.name}: its sums or results can leave 32 bits; its outputs in the calibration "
                "batches are tiny beside what its weights can make: calibrate with other batches"
            )
