"""Depthwise convolutions by the kernel of their own: one plane at a time, without padded planes."""

import numpy as np

from billhook.errors import ConfigurationError
from billhook.inference.graph import Conv
from billhook.inference.kernels import DEPTHWISE, MAX_TAPS, Step, View
from billhook.inference.weights.csr import floats, to_csr
from billhook.inference.weights.panels import BlockedRows, SparseRows

__all__ = ["depthwise_rows", "depthwise_step", "has_kernel"]


def has_kernel(conv: Conv) -> bool:
    """Whether a convolution can run by the depthwise kernel."""
    taps = conv.weight.shape[2] * conv.weight.shape[3]
    return (
        conv.depthwise and conv.stride[1] in (1, 2) and conv.dilation == (1, 1) and taps <= MAX_TAPS
    )


def depthwise_rows(conv: Conv) -> BlockedRows:
    """The filters' nonzeros, by tap: row of the kernel times its width, plus column.

    Raises:
        ConfigurationError: The kernel does not run this convolution; only a plan can ask for it.
    """
    if not has_kernel(conv):
        raise ConfigurationError(
            f"the plan runs {conv.name} by the depthwise kernel, which takes one filter a channel, "
            f"at most {MAX_TAPS} taps, horizontal stride 1 or 2 and no dilation, not a weight of "
            f"shape {tuple(conv.weight.shape)}, stride {conv.stride} and dilation {conv.dilation}: "
            "compile the model again"
        )
    csr = to_csr(conv.weight)
    taps = csr.column.astype(np.int32)
    return BlockedRows(
        (SparseRows(csr.row_ptr, taps, csr.value, floats(conv.bias), conv.activation),)
    )


def depthwise_step(conv: Conv, rows: BlockedRows, x: View, y: View, shape: tuple[int, ...]) -> Step:
    """The step from the planes ``x``, whose shape is (C, H, W), to the planes ``y``."""
    channels, height, width = shape
    return Step(
        op=DEPTHWISE,
        x=x,
        y=y,
        addend=View(-1, 0, 0, 0),
        channels=channels,
        in_height=height,
        in_width=width,
        height=conv.shape[1],
        width=conv.shape[2],
        kernel_height=conv.weight.shape[2],
        kernel_width=conv.weight.shape[3],
        stride_height=conv.stride[0],
        stride_width=conv.stride[1],
        pad_top=conv.padding[0],
        pad_left=conv.padding[1],
        rows=rows.struct,
    )
