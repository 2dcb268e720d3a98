"""The steps of a program that torch runs: layers that are faster dense."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from billhook.inference.graph.ops import Dense, Shape
from billhook.inference.kernels import RESULT, SOURCE, View

if TYPE_CHECKING:
    from billhook.inference.graph.conv import Conv
    from billhook.inference.graph.linear import Linear

__all__ = ["ACTIVATE", "dense_conv", "dense_linear", "planes_of", "torch_conv"]

ACTIVATE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu_,
    "relu6": lambda x: F.hardtanh_(x, 0.0, 6.0),
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


def planes_of(buffer: torch.Tensor, view: View, shape: tuple[int, ...]) -> torch.Tensor:
    """The (C, H, W) tensor that lies at a view of a buffer."""
    offset = buffer.storage_offset() + view.offset
    return buffer.as_strided(shape, (view.plane, view.pitch, 1), offset)


def dense_conv(conv: "Conv", source: View, target: View, in_shape: Shape) -> Dense:
    """torch's convolution of planes at ``source``, to those at ``target`` in the workspace."""

    def run(workspace: torch.Tensor, x: torch.Tensor, _: torch.Tensor) -> None:
        operand = x.flatten() if source.buffer == SOURCE else workspace
        result = torch_conv(conv, planes_of(operand, source, in_shape).unsqueeze(0))
        planes_of(workspace, target, conv.shape).copy_(result[0])

    return run


def dense_linear(op: "Linear", source: View, target: View) -> Dense:
    """torch's product with the vector at ``source``, to the one at ``target``."""
    activate, weight = ACTIVATE[op.activation], op.dense_weight

    def run(workspace: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        features = weight.shape[1]
        flat = x.flatten() if source.buffer == SOURCE else workspace[source.offset :]
        to = y.view(-1) if target.buffer == RESULT else workspace[target.offset :][: len(weight)]
        to.copy_(activate(F.linear(flat[:features], weight, op.bias)))

    return run
