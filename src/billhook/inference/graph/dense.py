"""torch's own calls of what layers compute, to compare with."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from billhook.inference.graph.conv import Conv

__all__ = ["torch_conv"]

ACTIVATE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu_,
    "relu6": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "hardsigmoid": lambda x: F.hardsigmoid(x, inplace=True),
    "sigmoid": torch.sigmoid_,
    "silu": lambda x: F.silu(x, inplace=True),
}


def torch_conv(conv: "Conv", x: torch.Tensor) -> torch.Tensor:
    """torch's convolution of (N, C, H, W), and the activation."""
    top, left, bottom, right = conv.padding
    symmetric = top == bottom and left == right
    if not symmetric:
        x = F.pad(x, (left, right, top, bottom))
    padding = (top, left) if symmetric else (0, 0)
    y = F.conv2d(x, conv.dense_weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
    return ACTIVATE[conv.activation](y)
