"""The operations of a network program: what each computes, of which values, with which shape."""

from dataclasses import dataclass, field

import torch

from billhook.inference.weights.csr import SparseWeight

__all__ = ["INPUT", "Conv", "Linear", "Op", "Other", "Pool", "Shape", "UnsupportedError"]

INPUT = -1  # the value number of the network's input; operation i makes value i

Shape = tuple[int, ...]


class UnsupportedError(Exception):
    """The network has an operation that the network plan does not know; the message says which."""


@dataclass(frozen=True)
class Op:
    """One operation. ``shape`` is one sample's result: (C, H, W), or (F,) for a vector."""

    name: str
    inputs: tuple[int, ...]
    shape: Shape
    activation: str = "none"


@dataclass(frozen=True)
class Conv(Op):
    """Convolution; ``padding`` is (top, left, bottom, right), of zeros."""

    weight: torch.Tensor | SparseWeight = field(default_factory=lambda: torch.empty(0))
    bias: torch.Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """One filter a channel."""
        return self.groups == self.weight.shape[0] and self.weight.shape[1] == 1

    @property
    def pointwise(self) -> bool:
        """1x1, stride 1, no padding, one group."""
        return (
            tuple(self.weight.shape[2:]) == self.stride == (1, 1)
            and not any(self.padding)
            and self.groups == 1
        )


@dataclass(frozen=True)
class Linear(Op):
    """Matrix times vector."""

    weight: torch.Tensor | SparseWeight = field(default_factory=lambda: torch.empty(0))
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Pool(Op):
    """``kind`` is "max" or "average"; ``padding`` is (top, left)."""

    kind: str = "max"
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    count_padding: bool = True


@dataclass(frozen=True)
class Other(Op):
    """``kind`` is "mean" (over each plane), "add", "concat", "flatten" or "activation"."""

    kind: str = ""
