"""Sparse convolutions: a network of one layer for every size of input."""

import threading
from dataclasses import replace

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference.graph import INPUT, Conv
from billhook.inference.layers.base import (
    SparseLayer,
    Weight,
    Weights,
    check_input,
    sparse_weights,
    vector,
)
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import SparseWeight

__all__ = ["SparseConv", "as_image", "describe_conv", "sized"]

NETWORKS_KEPT = 8  # input sizes a SparseConv keeps programs for


class SparseConv(SparseLayer):
    """What an eval-mode :class:`torch.nn.Conv1d` or Conv2d with zero padding computes, pruned.

    A Conv1d is a Conv2d of height 1.

    Args:
        conv: The dense module; its weights are copied unless others are given.
        choice: The kernel.
        isa: The instruction set, an index into ``kernels.ISA_NAMES``.
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
        super().__init__(sparse_weights(conv) if weights is None else weights)
        self.in_channels, self.dims = conv.in_channels, len(conv.kernel_size)
        self.choice, self.isa = choice, isa
        self._conv = describe_conv(conv, self.weights["weight"], vector(self.weights, "bias"))
        self._networks: dict[tuple[int, int, int], Network] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return sum(network.nbytes for network in self._networks.values())

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
        y = self._network((image.shape[1], image.shape[2], image.shape[3]))(image)
        y = y.squeeze(2) if self.dims == 1 else y
        return y if batched else y[0]

    def positions(self, x: torch.Tensor) -> int:
        """How often an input uses each weight."""
        image = as_image(x, self.dims)
        op = sized(self._conv, *image.shape[2:])
        return len(image) * op.shape[1] * op.shape[2]

    def _network(self, shape: tuple[int, int, int]) -> Network:
        with self._lock:
            network = self._networks.get(shape)
            if network is None:
                op = sized(self._conv, shape[1], shape[2])
                network = Network([op], shape, {op.name: self.choice}, self.isa)
                if len(self._networks) == NETWORKS_KEPT:
                    del self._networks[next(iter(self._networks))]
                self._networks[shape] = network
            return network


def as_image(x: torch.Tensor, dims: int) -> torch.Tensor:
    """The input of a convolution over ``dims`` sides as (N, C, H, W)."""
    batch = x if x.dim() == dims + 2 else x.unsqueeze(0)
    return batch if dims == 2 else batch.unsqueeze(2)


def describe_conv(conv: nn.Conv1d | nn.Conv2d, weight: Weight, bias: torch.Tensor | None) -> Conv:
    """The module as an operation with these weights, its output's size still unknown."""
    left, right, *rows = conv._reversed_padding_repeated_twice
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
    kernel = conv.weight.shape[2:]
    sides = [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, before, after, d, k, s in zip(
            *((height, width), conv.padding[:2], conv.padding[2:]),
            *(conv.dilation, kernel, conv.stride),
            strict=True,
        )
    ]
    if min(sides) < 1:
        raise ConfigurationError(
            f"an input of {height} x {width} is smaller than the {tuple(kernel)} kernel needs"
        )
    return replace(conv, shape=(conv.shape[0], sides[0], sides[1]))
