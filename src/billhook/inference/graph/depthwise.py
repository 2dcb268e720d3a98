"""Depthwise convolutions by the kernel of their own: one plane at a time, without padded planes."""

from typing import TYPE_CHECKING

import numpy as np

from billhook.inference.graph.ops import Shape, step_between
from billhook.inference.kernels import DEPTHWISE, MAX_TAPS, Step, View
from billhook.inference.weights.csr import floats, to_csr
from billhook.inference.weights.panels import BlockedRows, SparseRows

if TYPE_CHECKING:
    from billhook.inference.graph.conv import Conv

__all__ = ["depthwise_rows", "depthwise_step", "has_kernel"]


def has_kernel(conv: "Conv") -> bool:
    """Whether a convolution can run by the depthwise kernel."""
    taps = conv.weight.shape[2] * conv.weight.shape[3]
    return (
        conv.depthwise and conv.stride[1] in (1, 2) and conv.dilation == (1, 1) and taps <= MAX_TAPS
    )


def depthwise_rows(conv: "Conv") -> BlockedRows:
    """The filters' nonzeros, by tap: row of the kernel times its width, plus column."""
    csr = to_csr(conv.weight)
    taps = csr.column.astype(np.int32)
    return BlockedRows(
        (SparseRows(csr.row_ptr, taps, csr.value, floats(conv.bias), conv.activation),)
    )


def depthwise_step(conv: "Conv", x: View, y: View, shape: Shape) -> Step:
    """The step from the planes ``x``, whose shape is (C, H, W), to the planes ``y``."""
    step = step_between(DEPTHWISE, x, shape, y, conv.shape)
    step.kernel_height, step.kernel_width = conv.weight.shape[2:]
    step.stride_height, step.stride_width = conv.stride
    step.pad_top, step.pad_left = conv.padding[:2]
    return step
