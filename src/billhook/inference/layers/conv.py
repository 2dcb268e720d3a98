"""Sparse convolutions: a network of one layer for every size of input."""

import threading
from dataclasses import replace
from typing import Any, Self

import torch
from torch import nn

from billhook import torch_private
from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.graph import INPUT, Conv, Graph
from billhook.inference.graph.ops import Packings
from billhook.inference.inputs import check_input
from billhook.inference.layers.base import (
    SparseLayer,
    Weight,
    Weights,
    sparse_weights,
    vector,
)
from billhook.inference.network.network import Network
from billhook.inference.network.race import race_network
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import SparseWeight, bytes_of

__all__ = ["SparseConv", "as_image", "describe_conv", "sized"]

SIZES_KEPT = 3  # of inputs, that a SparseConv keeps programs for


class SparseConv(SparseLayer):
    """What an eval-mode :class:`torch.nn.Conv1d` or Conv2d with zero padding computes, pruned.

    A Conv1d is a Conv2d of height 1.

    Args:
        conv: The dense module; its weights are copied unless others are given.
        choice: The kernel.
        isa: The instruction set, a row of the library's table.
        weights: What to use instead of the module's weights, which then may be on "meta".

    >>> import torch
    >>> dense = torch.nn.Conv2d(2, 3, 3, padding=1).eval()
    >>> x = torch.ones(1, 2, 4, 4)
    >>> torch.allclose(SparseConv(dense, Choice("spmm"), 0)(x), dense(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        conv: nn.Conv1d | nn.Conv2d,
        choice: Choice,
        isa: int,
        weights: Weights | None = None,
    ) -> None:
        own = sparse_weights(conv, self.weight_names(conv)) if weights is None else weights
        super().__init__(own)
        self.in_channels, self.dims = conv.in_channels, len(conv.kernel_size)
        self.choice, self.isa = choice, isa
        conv_op = describe_conv(conv, self.weights["weight"], vector(self.weights, "bias"))
        self._conv, self._programs = conv_op, _Programs(conv_op, choice, isa)

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        return (nn.Conv1d, nn.Conv2d)

    @classmethod
    def obstacle(cls, module: nn.Module, /) -> str | None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        if module.padding_mode != "zeros":
            return f"padding of {module.padding_mode} has no sparse form"
        return None

    @classmethod
    def kernels_for(cls, module: nn.Module, /) -> tuple[str, ...]:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        runs = describe_conv(module, module.weight, None).kernels_for()
        return tuple(kernel for kernel in runs if kernel != "dense")

    @classmethod
    def fastest(cls, module: nn.Module, x: Any, isa: int, /) -> Choice:
        """The sparse kernel that is fastest on the input."""
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        own = sparse_weights(module, cls.weight_names(module))
        image = as_image(x, len(module.kernel_size))
        op = describe_conv(module, module.weight.detach(), vector(own, "bias"))
        shape = (image.shape[1], image.shape[2], image.shape[3])
        alone = Graph.of_maps([sized(op, *shape[1:])], shape)
        best = race_network(alone, (image,), isa)[0]["conv"]
        return best if best.kernel != "dense" else Choice("spmm")

    @classmethod
    def make(cls, module: nn.Module, choice: Choice, isa: int, weights: Weights | None) -> Self:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        return cls(module, choice, isa, weights)

    @property
    def nbytes(self) -> int:
        return self._programs.nbytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) or (C, H, W), for a Conv1d (N, C, L) or (C, L)."""
        check_input("SparseConv", x)
        batched = x.dim() == self.dims + 2
        if not (batched or x.dim() == self.dims + 1) or x.shape[-self.dims - 1] != self.in_channels:
            sides = "H, W" if self.dims == 2 else "L"
            raise ConfigurationError(
                f"the input's shape is {tuple(x.shape)}: this convolution takes "
                f"(N, {self.in_channels}, {sides}) or ({self.in_channels}, {sides})"
            )
        image = as_image(x, self.dims)
        y: torch.Tensor = self._programs.of((image.shape[1], image.shape[2], image.shape[3]))(image)
        y = y.squeeze(2) if self.dims == 1 else y
        return y if batched else y[0]

    def positions(self, x: torch.Tensor) -> int:
        """How often an input uses each weight."""
        image = as_image(x, self.dims)
        op = sized(self._conv, *image.shape[2:])
        return len(image) * op.shape[1] * op.shape[2]


class _Programs:
    """The convolution as a program for each of the sizes that came last.

    They share what does not depend on the size: all that is packed for panels, the values for
    planes.
    """

    def __init__(self, conv: Conv, choice: Choice, isa: int) -> None:
        self.conv, self.choice, self.isa = conv, choice, isa
        self._packings: Packings = {}
        self._networks: dict[tuple[int, int, int], Network] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.conv, self.choice, self.isa)

    @property
    def nbytes(self) -> int:
        with self._lock:
            networks = list(self._networks.values())
        return bytes_of([*self.conv.arrays(), *(a for n in networks for a in n.arrays())])

    def of(self, shape: tuple[int, int, int]) -> Network:
        """The program for inputs of (C, H, W)."""
        with self._lock:
            network = self._networks.pop(shape, None)
            if network is None:
                op = sized(self.conv, shape[1], shape[2])
                choices = {op.name: self.choice}
                network = Network(
                    Graph.of_maps([op], shape), choices, self.isa, packings=self._packings
                )
                while len(self._networks) >= SIZES_KEPT:
                    del self._networks[next(iter(self._networks))]
            self._networks[shape] = network
            return network


def _again(conv: Conv, choice: Choice, isa: int) -> _Programs:
    """A copy, with this machine's kernels if it comes from a better one."""
    return _Programs(conv, choice, kernels.runnable(isa))


def as_image(x: torch.Tensor, dims: int) -> torch.Tensor:
    """The input of a convolution over ``dims`` sides as (N, C, H, W)."""
    batch = x if x.dim() == dims + 2 else x.unsqueeze(0)
    return batch if dims == 2 else batch.unsqueeze(2)


def describe_conv(conv: nn.Conv1d | nn.Conv2d, weight: Weight, bias: torch.Tensor | None) -> Conv:
    """The module as an operation with these weights, its output's size still unknown."""
    left, right, *rows = torch_private.padding_by_side(conv)
    top, bottom = rows or (0, 0)
    if len(weight.shape) == 3:
        filters, inputs, width = weight.shape
        flat = (filters, inputs, 1, width)
        weight = (
            SparseWeight(flat, weight.csr)
            if isinstance(weight, SparseWeight)
            else weight.reshape(flat)
        )
    return Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(conv.out_channels, 0, 0),
        weight=weight,
        bias=bias,
        stride=_pair(conv.stride),
        padding=(top, left, bottom, right),
        dilation=_pair(conv.dilation),
        groups=conv.groups,
    )


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    """Of rows and columns; a Conv1d has one row."""
    return (1, sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def sized(conv: Conv, height: int, width: int) -> Conv:
    """The operation with its output's height and width for an input of that size.

    Raises:
        ConfigurationError: The input is smaller than the kernel needs.
    """
    sides = conv.size_for(height, width)
    if min(sides) < 1:
        kernel = tuple(conv.weight.shape[2:])
        raise ConfigurationError(
            f"an input of {height} x {width} is smaller than the {kernel} kernel needs"
        )
    return replace(conv, shape=(conv.shape[0], *sides))
