"""The steps of a program that torch runs: layers that are faster dense."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from billhook.inference.graph import Conv, Linear
from billhook.inference.kernels import RESULT, SOURCE, View

__all__ = ["ACTIVATE", "Dense", "dense_conv", "dense_linear", "dense_weight"]

Dense = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""A step that torch runs on one sample: workspace, input sample, output sample."""

ACTIVATE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu_,
    "relu6": lambda x: F.hardtanh_(x, 0.0, 6.0),
}


def dense_weight(op: Conv | Linear) -> torch.Tensor:
    """The weight of a layer that torch runs."""
    assert isinstance(op.weight, torch.Tensor), f"{op.name} was packed, and is to run dense"
    return op.weight


def _planes_of(buffer: torch.Tensor, view: View, shape: tuple[int, ...]) -> torch.Tensor:
    """The (C, H, W) tensor that lies at a view of a buffer."""
    offset = buffer.storage_offset() + view.offset
    return buffer.as_strided(shape, (view.plane, view.pitch, 1), offset)


def dense_conv(conv: Conv, source: View, target: View, in_shape: tuple[int, ...]) -> Dense:
    """torch's convolution of planes at ``source``, to those at ``target`` in the workspace."""
    top, left, bottom, right = conv.padding
    symmetric = top == bottom and left == right
    activate, weight = ACTIVATE[conv.activation], dense_weight(conv)

    def run(workspace: torch.Tensor, x: torch.Tensor, _: torch.Tensor) -> None:
        operand = x.flatten() if source.buffer == SOURCE else workspace
        planes = _planes_of(operand, source, in_shape).unsqueeze(0)
        if not symmetric:
            planes = F.pad(planes, (left, right, top, bottom))
        padding = (top, left) if symmetric else (0, 0)
        result = F.conv2d(
            planes, weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups
        )
        _planes_of(workspace, target, conv.shape).copy_(activate(result)[0])

    return run


def dense_linear(op: Linear, source: View, target: View) -> Dense:
    """torch's product with the vector at ``source``, to the one at ``target``."""
    activate, weight = ACTIVATE[op.activation], dense_weight(op)

    def run(workspace: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        features = weight.shape[1]
        flat = x.flatten() if source.buffer == SOURCE else workspace[source.offset :]
        to = y.view(-1) if target.buffer == RESULT else workspace[target.offset :][: len(weight)]
        to.copy_(activate(F.linear(flat[:features], weight, op.bias)))

    return run
