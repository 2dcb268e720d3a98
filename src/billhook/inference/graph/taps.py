"""Convolutions as sparse rows: every nonzero of a filter becomes an offset into padded planes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from billhook.inference.graph.planes import PlaneLayout
from billhook.inference.weights.csr import floats, to_csr
from billhook.inference.weights.panels import SparseRows

if TYPE_CHECKING:
    from billhook.inference.graph.conv import Conv

__all__ = ["Reach", "conv_rows", "panel_offsets", "reach"]


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


def _tap_offsets(
    conv: "Conv", source: PlaneLayout, ky: np.ndarray, kx: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The phase a tap reads, and its offset there."""
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    y, x = ky * dh - conv.padding[0], kx * dw - conv.padding[1]
    phase = (y % sh) * sw + x % sw
    return phase, (y // sh) * source.pitch + x // sw


def conv_rows(conv: "Conv", source: PlaneLayout) -> SparseRows:
    """The convolution's rows."""
    csr = to_csr(conv.weight)
    offset = panel_offsets(conv, source)[csr.column]
    if conv.groups > 1:
        filters, inputs = conv.weight.shape[:2]
        first = np.arange(filters, dtype=np.int32) // (filters // conv.groups) * inputs
        first *= conv.stride[0] * conv.stride[1] * source.size
        offset += np.repeat(first, np.diff(csr.row_ptr))
    bias = floats(conv.bias)
    return SparseRows(csr.row_ptr, offset, csr.value, bias, conv.activation)


def panel_offsets(conv: "Conv", source: PlaneLayout) -> NDArray[np.int32]:
    """Offset from an output pixel to the operand of each column of the flattened weight.

    For a later group add the channels of the groups before it.
    """
    _, inputs, kernel_height, kernel_width = conv.weight.shape
    taps = np.arange(kernel_height * kernel_width)
    phase, within = _tap_offsets(conv, source, *divmod(taps, kernel_width))
    channel = np.arange(inputs)[:, None] * conv.stride[0] * conv.stride[1]
    offsets: NDArray[np.int32] = ((channel + phase) * source.size + within).astype(np.int32)
    return offsets.ravel()
