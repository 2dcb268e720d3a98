"""Convolutions as sparse rows: every nonzero of a filter becomes an offset into padded planes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from billhook.inference.kernels import LANES
from billhook.inference.weights import packing
from billhook.inference.weights.csr import Csr, floats
from billhook.inference.weights.packing import TapsStruct
from billhook.inference.weights.panels import SparseRows

if TYPE_CHECKING:
    from billhook.inference.graph.conv import Conv

__all__ = ["Reach", "conv_rows", "reach", "taps", "taps_note"]


@dataclass(frozen=True)
class Reach:
    """How far taps reach, in rows and columns of the plane (or phase) they read."""

    top: int
    left: int
    bottom: int
    right: int


def reach(conv: "Conv") -> Reach:
    """The smallest and largest row and column that taps add to an output pixel's.

    >>> import torch
    >>> from billhook.inference.graph import Conv
    >>> reach(Conv("c", (0,), (1, 4, 4), weight=torch.ones(1, 1, 3, 3), padding=(1, 1, 1, 1)))
    Reach(top=-1, left=-1, bottom=1, right=1)
    """
    kernel = conv.weight.shape[2:]
    low = [-p // s for p, s in zip(conv.padding[:2], conv.stride, strict=True)]
    high = [
        ((k - 1) * d - p) // s
        for k, d, p, s in zip(kernel, conv.dilation, conv.padding[:2], conv.stride, strict=True)
    ]
    return Reach(low[0], low[1], high[0], high[1])


def taps(conv: "Conv", plane: int, pitch: int) -> TapsStruct:
    """How a convolution reads planes, or phases, of this many floats with rows of this pitch."""
    _, inputs, height, width = conv.weight.shape
    sides = (height, width, *conv.stride, *conv.dilation, *conv.padding[:2])
    return TapsStruct(inputs, *sides, conv.groups, plane, pitch)


def taps_note(own: TapsStruct) -> dict[str, Any]:
    """The same for files, which have the sides of the kernel in the weight's shape."""
    return {
        "stride": [own.stride_height, own.stride_width],
        "dilation": [own.dilation_height, own.dilation_width],
        "padding": [own.pad_top, own.pad_left],
        "groups": own.groups,
        "plane": own.plane,
        "pitch": own.pitch,
    }


def conv_rows(conv: "Conv", own: TapsStruct, csr: Csr) -> SparseRows:
    """The convolution's rows, in groups of eight if each eight read the same places; of these
    weights of its flattened filters."""
    shared = packing.shares_offsets(csr.struct, own)
    row_ptr, offset, value = packing.fill_planes(csr.struct, csr.nnz, own, shared)
    if not shared:
        row_ptr, value = csr.row_ptr, csr.value  # the same numbers, which then are there once
    group = LANES if shared else 1
    return SparseRows(row_ptr, offset, value, floats(conv.bias), conv.activation, group)
