"""Which models become one program in 8 bits, and their inputs as the maps that it works on."""

from dataclasses import replace

import torch
from torch import nn

from billhook.inference.graph import (
    Binary,
    Conv,
    Elementwise,
    Graph,
    Input,
    Join,
    Linear,
    Op,
    Other,
    Pool,
    Rearrange,
    Slice,
    UnsupportedError,
    capture_graph,
    capture_maps,
)
from billhook.inference.int8.functions import separated
from billhook.inference.int8.ops import PIXELS, Shape

__all__ = ["LEAST_SAMPLES", "captured", "maps_of"]

KNOWN = (Conv, Linear, Pool, Other, Elementwise, Binary, Rearrange, Slice, Join)
LEAST_SAMPLES = 16  # pixels that a vector of the product's kernels holds


def captured(model: nn.Module, x: torch.Tensor) -> tuple[Graph, Shape]:
    """The model as operations on maps, and the shape of one of its samples; functions that are not
    a saturation are operations of their own.

    Samples are maps (C, H, W) or (C, T), or rows (C,) where the model works on each row alone:
    then ``PIXELS`` rows are the pixels of one map.

    Raises:
        UnsupportedError: It is another model, or has an operation without a form in 8 bits.
    """
    obstacle = UnsupportedError(f"an input of {x.dim()} dimensions is neither maps nor rows")
    for form, ranks in ((_rows, (2, 3)), (_maps, (3, 4))):
        if x.dim() not in ranks:
            continue
        try:
            graph, takes = form(model, x)
            return separated(graph), takes
        except UnsupportedError as error:
            obstacle = error
    raise obstacle


def maps_of(x: torch.Tensor, takes: Shape) -> torch.Tensor:
    """Samples as maps (N, C, H, W); of rows one map with a pixel for each.

    >>> maps_of(torch.zeros(5, 3), (3,)).shape, maps_of(torch.zeros(2, 3, 9), (3, 9)).shape
    (torch.Size([1, 3, 1, 5]), torch.Size([2, 3, 1, 9]))
    """
    if len(takes) == 1:
        return x.reshape(-1, *takes).T[None, :, None]
    return x.unsqueeze(2) if len(takes) == 2 else x


def _maps(model: nn.Module, x: torch.Tensor) -> tuple[Graph, Shape]:
    graph = capture_maps(model, x)
    for op in graph.ops:
        if not isinstance(op, KNOWN):
            raise UnsupportedError(f"{op.name} has no 8-bit form")
    return graph, tuple(x.shape[1:])


def _rows(model: nn.Module, x: torch.Tensor) -> tuple[Graph, Shape]:
    flat = x.reshape(-1, x.shape[-1])
    if len(flat) < LEAST_SAMPLES:
        raise UnsupportedError(f"the example has fewer than {LEAST_SAMPLES} rows of features")
    try:
        graph, pack = capture_graph(model, (flat,))
    except RuntimeError as error:  # the model takes no such input
        raise UnsupportedError(f"it does not take rows of features: {error}") from error
    if pack is not None or len(graph.outputs) != 1 or graph.outputs[0].value != len(graph.ops) - 1:
        raise UnsupportedError("not one output")
    ops = tuple(_pixelwise(op) for op in graph.ops)
    wanted, given = (model(value).reshape(len(flat), -1) for value in (x, flat))
    if wanted.shape != given.shape or not torch.allclose(wanted, given, rtol=1e-3, atol=1e-4):
        raise UnsupportedError("it does not work on each row alone")
    given = Input("x", (flat.shape[1], 1, PIXELS))
    return Graph(ops, (given,), graph.outputs), (flat.shape[1],)


def _pixelwise(op: Op) -> Op:
    """An operation on vectors as one on each pixel of maps."""
    shape = (*op.shape, 1, PIXELS)
    if isinstance(op, Linear):
        weight = op.dense_weight[:, :, None, None]
        return Conv(op.name, op.inputs, shape, op.activation, weight=weight, bias=op.bias)
    by_itself = isinstance(op, Other) and op.kind in ("add", "concat", "activation")
    if by_itself or isinstance(op, Elementwise | Binary | Join):
        return replace(op, shape=shape)
    raise UnsupportedError(f"{op.name} does not work on each row alone, or has no 8-bit form")
