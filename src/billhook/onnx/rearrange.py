"""ONNX's operators that move elements and change shapes, added to ``OPERATORS``."""

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from billhook.errors import FormatError
from billhook.onnx.file import Node, Numbers
from billhook.onnx.operators import OPERATORS, ints, operator, scalar, tensor
from billhook.onnx.shapes import axes_of

__all__ = ["OPERATORS"]


@operator("Shape")
def shape(node: Node, x: torch.Tensor) -> Numbers:
    a = node.attributes
    return np.array(list(x.shape)[a.get("start", 0) : a.get("end")], np.int64)


@operator("Reshape")
def reshape(node: Node, x: torch.Tensor, wanted: Any) -> torch.Tensor:
    sizes = ints(wanted)
    if not node.attributes.get("allowzero"):
        sizes = [x.shape[d] if n == 0 else n for d, n in enumerate(sizes)]
    if sizes and sizes[0] == 1 and min(sizes) > 0 and math.prod(sizes) != x.numel():
        sizes[0] = -1  # the file was made for one sample: several are taken as well
    return x.reshape(sizes)


@operator("Flatten")
def flatten(node: Node, x: torch.Tensor) -> torch.Tensor:
    axis = node.attributes.get("axis", 1)
    axis = axis % x.dim() if axis != x.dim() else axis
    return x.flatten(1) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Transpose")
def transpose(node: Node, x: torch.Tensor) -> torch.Tensor:
    return x.permute(*node.attributes.get("perm", range(x.dim() - 1, -1, -1)))


@operator("Squeeze")
def squeeze(node: Node, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    axes = axes_of(node, (x, *rest), 1)
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator("Unsqueeze")
def unsqueeze(node: Node, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    axes = axes_of(node, (x, *rest), 1) or ()
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: Node, *given: Any) -> torch.Tensor:
    return torch.cat([tensor(each) for each in given], node.attributes["axis"])


@operator("Split")
def split(node: Node, x: torch.Tensor, sizes: Any = None) -> tuple[torch.Tensor, ...]:
    axis = node.attributes.get("axis", 0)
    parts = node.attributes.get("split", None if sizes is None else ints(sizes))
    if parts is None:
        count = len(node.outputs)
        parts = -(-x.shape[axis] // count)
    return torch.split(x, parts, axis)


@operator("Slice")
def slices(node: Node, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    a = node.attributes
    starts, ends = (ints(rest[0]), ints(rest[1])) if rest else (a["starts"], a["ends"])
    axes = ints(rest[2]) if len(rest) > 2 and rest[2] is not None else a.get("axes")
    steps = ints(rest[3]) if len(rest) > 3 else [1] * len(starts)
    for axis, first, last, step in zip(
        axes or range(len(starts)), starts, ends, steps, strict=False
    ):
        if step < 1:
            raise FormatError(f"{node} steps by {step}: only forward is known here")
        where = [slice(None)] * x.dim()
        where[axis] = slice(first, None if last > x.shape[axis] else last, step)
        x = x[tuple(where)]
    return x


@operator("Gather")
def gather(node: Node, x: Any, index: Any) -> torch.Tensor:
    axis, x = node.attributes.get("axis", 0), tensor(x)
    if not torch.is_tensor(index):
        return _gather_known(x, index, axis % x.dim())
    if x.dim() == 2 and axis == 0 and not index.is_floating_point():
        return F.embedding(index, x)
    picked = torch.index_select(x, axis, index.reshape(-1))
    return picked.reshape(x.shape[:axis] + index.shape + x.shape[axis % x.dim() + 1 :])


def _gather_known(x: torch.Tensor, index: Numbers, axis: int) -> torch.Tensor:
    places = [n % x.shape[axis] for n in ints(index)]
    if np.ndim(index) == 0:
        return x.select(axis, places[0])
    if places == list(range(places[0], places[0] + len(places))):
        return x.narrow(axis, places[0], len(places))
    return torch.index_select(x, axis, torch.tensor(places))


@operator("GatherND")
def gather_nd(node: Node, x: Any, index: Any) -> torch.Tensor:
    if node.attributes.get("batch_dims"):
        raise FormatError(f"{node} has batch dimensions")
    return tensor(x)[tuple(tensor(index).unbind(-1))]


@operator("Expand")
def expand(node: Node, x: Any, wanted: Any) -> torch.Tensor:
    x, sizes = tensor(x), ints(wanted)
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    sizes = [1] * (len(own) - len(sizes)) + sizes
    return tensor(x.expand([max(m, n) for m, n in zip(own, sizes, strict=True)]))


@operator("Tile")
def tile(node: Node, x: torch.Tensor, repeats: Any) -> torch.Tensor:
    return x.repeat(ints(repeats))


@operator("Pad")
def pad(
    node: Node, x: torch.Tensor, pads: Any = None, value: Any = None, axes: Any = None
) -> torch.Tensor:
    a = node.attributes
    sizes = ints(a["pads"] if pads is None else pads)
    sides = len(sizes) // 2
    whole = [[0, 0] for _ in range(x.dim())]
    for place, axis in enumerate(range(x.dim()) if axes is None else ints(axes)):
        whole[axis] = [sizes[place], sizes[place + sides]]
    while len(whole) > 1 and whole[0] == [0, 0]:
        whole.pop(0)
    flat = [n for pair in whole[::-1] for n in pair]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(
        a.get("mode", "constant")
    )
    if mode is None:
        raise FormatError(f"{node} pads by {a['mode']!r}, which torch does not have")
    fill = a.get("value", 0.0) if value is None else scalar(value)
    return F.pad(x, flat, mode, fill if mode == "constant" else None)


@operator("DepthToSpace")
def depth_to_space(node: Node, x: torch.Tensor) -> torch.Tensor:
    block = node.attributes["blocksize"]
    if node.attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // block**2, h * block, w * block)
