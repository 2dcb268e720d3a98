"""The operations of a network in 8 bits: what each computes of which values.

Value i is the result of operation i, ``INPUT`` the network's input. A value is a map (C, H, W) or a
vector (F,) of bytes q that stand for (q - zero) * step, or a vector of fp32 numbers, whose range is
None. Ranges, weights and biases decide every bit of the results; kernels decide none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INPUT",
    "PIXELS",
    "Add",
    "Concat",
    "Conv",
    "Flatten",
    "Layer",
    "Linear",
    "Mean",
    "Multiply",
    "Op",
    "Pool",
    "Program",
    "Quantise",
    "Range",
    "Select",
    "Shape",
    "Table",
]

INPUT = -1
PIXELS = 128  # of the maps whose pixels are samples
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """A byte q stands for (q - zero) * step.

    >>> Range.of(0.0, 6.0)
    Range(step=0.023529411764705882, zero=0)
    >>> Range.of(-1.0, 1.0).zero
    128
    """

    step: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> "Range":
        """The range of bytes that holds [low, high], and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if high == low:
            return cls(1.0 / 255, 0)
        step = (high - low) / 255
        return cls(step, int(np.rint(-low / step)))

    @property
    def bounds(self) -> tuple[float, float]:
        """The values of the bytes 0 and 255."""
        return -self.zero * self.step, (255 - self.zero) * self.step


@dataclass(frozen=True)
class Op:
    """One operation; ``range`` is that of its result."""

    name: str
    inputs: tuple[int, ...]
    shape: Shape
    range: Range | None


@dataclass(frozen=True)
class Layer(Op):
    """An operation with weights: result = (bias + sum of products) * scale, a channel's own."""

    weight: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    bias: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    scale: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution of (M, C / groups, kh, kw); ``padding`` is (top, left, bottom, right).

    A second input is added, ``addend_scale`` times its bytes, before the result is rounded.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    addend_scale: float = 0.0

    @property
    def pointwise(self) -> bool:
        """1x1, stride 1, no padding."""
        return tuple(self.weight.shape[2:]) == self.stride == (1, 1) and not any(self.padding)

    @property
    def depthwise(self) -> bool:
        """One filter per channel, of a stride and dilation that the depthwise kernel knows."""
        return (
            self.groups == self.weight.shape[0]
            and self.weight.shape[1] == 1
            and self.stride[1] <= 2
            and self.dilation == (1, 1)
            and len(self.inputs) == 1
        )


@dataclass(frozen=True)
class Linear(Layer):
    """Matrix (M, K) times a vector, or times each pixel of a map; the result is fp32."""

    relu: bool = False


@dataclass(frozen=True)
class Pool(Op):
    """``kind`` is "max" or "average"; ``padding`` is (top, left). The range is the input's."""

    kind: str = "max"
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    count_padding: bool = True


@dataclass(frozen=True)
class Mean(Op):
    """Of each plane, a vector."""


@dataclass(frozen=True)
class Add(Op):
    """Of one or two maps, with a range of its own: a sum, an activation, another range."""


@dataclass(frozen=True)
class Multiply(Op):
    """Of a value and another of its shape, or of a map and a vector: a byte for each channel."""


@dataclass(frozen=True)
class Table(Op):
    """Any function of one value: byte q becomes ``table[q]``."""

    table: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(256, np.uint8))


@dataclass(frozen=True)
class Concat(Op):
    """Channels, or vectors, one after another; all have the result's range."""


@dataclass(frozen=True)
class Select(Op):
    """Channel c is channel ``index[c]`` of a map, or of a vector, which is a map of one pixel; the
    range is the input's."""

    index: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class Flatten(Op):
    """A map as a vector, channel by channel, of the same range."""


@dataclass(frozen=True)
class Quantise(Op):
    """A vector of fp32 numbers as bytes."""


@dataclass(frozen=True)
class Program:
    """A network for maps (C, H, W); the last operation is its result, as fp32 of output_shape.

    ``takes`` is one sample as callers give it: (C, H, W), which () stands for; (C, T), where H is
    1; or (C,), where every sample is one of the ``PIXELS`` pixels of a map, and every operation
    works on pixels.
    """

    input_shape: tuple[int, int, int]
    output_shape: Shape
    input_range: Range
    ops: tuple[Op, ...]
    takes: Shape = ()
    input_name: str = "x"

    @property
    def by_sample(self) -> bool:
        """Whether samples are the pixels of maps."""
        return len(self.takes) == 1

    @property
    def sample_shape(self) -> Shape:
        """One sample as callers give it."""
        return self.takes or self.input_shape

    def range(self, value: int) -> Range | None:
        """The range of a value, None for fp32."""
        return self.input_range if value == INPUT else self.ops[value].range

    def bytes_range(self, value: int) -> Range:
        """The same of a value of bytes."""
        result = self.range(value)
        assert result is not None
        return result

    def shape(self, value: int) -> Shape:
        """A value's shape."""
        return self.input_shape if value == INPUT else self.ops[value].shape

    def layers(self) -> Iterator[tuple[int, Conv | Linear]]:
        """Those with weights, and their places."""
        for index, op in enumerate(self.ops):
            if isinstance(op, Conv | Linear):
                yield index, op
