"""The oracle of every kernel: plain loops over nonzeros in float64. Slow, obvious, only for tests.

A pruned weight contributes nothing whatever its input, so zeros are skipped here too; sums are in
float64, so kernels agree to fp32 rounding, and infinities and NaN come out where they do there.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["activate", "conv2d", "linear", "lstm_direction", "pool2d"]

Array = NDArray[np.float64]


def activate(y: Array, activation: str) -> Array:
    """Each as torch defines it; NaN stays NaN."""
    gate = np.minimum(np.maximum(y + 3.0, 0.0), 6.0) / 6.0
    sigmoid = 1.0 / (1.0 + np.exp(-y))
    return {
        "none": y,
        "relu": np.maximum(y, 0.0),
        "relu6": np.minimum(np.maximum(y, 0.0), 6.0),
        "hardswish": y * gate,
        "hardsigmoid": gate,
        "sigmoid": sigmoid,
        "silu": y * sigmoid,
    }[activation]


def linear(x: Array, weight: Array, bias: Array | None, activation: str = "none") -> Array:
    """y[s, r] = act(bias[r] + sum over weight[r, k] != 0 of weight[r, k] * x[s, k]).

    >>> linear(np.array([[np.inf, 2.0]]), np.array([[0.0, 3.0]]), None)
    array([[6.]])
    """
    y = np.zeros((len(x), len(weight)))
    for s, r in np.ndindex(y.shape):
        total = 0.0 if bias is None else bias[r]
        for k in np.flatnonzero(weight[r]):
            total += weight[r, k] * x[s, k]
        y[s, r] = total
    return activate(y, activation)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    activation: str = "none",
) -> Array:
    """(C, H, W) and (M, C / groups, kh, kw) to (M, OH, OW); padding is top, left, bottom, right."""
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    filters, _, kh, kw = weight.shape
    out_h = (padded.shape[1] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    out_w = (padded.shape[2] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((filters, out_h, out_w))
    for m in range(filters):
        base = m // (filters // groups) * weight.shape[1]
        for c, i, j in zip(*np.nonzero(weight[m]), strict=True):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + (out_h - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (out_w - 1) * stride[1] + 1, stride[1])
            y[m] += weight[m, c, i, j] * padded[base + c, rows, columns]
        if bias is not None:
            y[m] += bias[m]
    return activate(y, activation)


def pool2d(
    x: Array,
    kind: str,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    count_padding: bool,
    size: tuple[int, int],
) -> Array:
    """(C, H, W) to (C, *size): the largest or the mean of each window's pixels."""
    y = np.zeros((len(x), *size))
    for c, i, j in np.ndindex(y.shape):
        top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
        window = x[c, max(top, 0) : top + kernel[0], max(left, 0) : left + kernel[1]]
        if kind == "max":
            y[c, i, j] = window.max()
        else:
            y[c, i, j] = window.sum() / (kernel[0] * kernel[1] if count_padding else window.size)
    return y


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def lstm_direction(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    bias: Array,
    *,
    h: Array,
    c: Array,
    counts: NDArray[np.int64],
    reverse: bool,
) -> tuple[Array, Array, Array]:
    """Packed (sum of counts, inputs) to outputs (sum of counts, units), last h and last c.

    i, f, g, o = w_ih x + w_hh h + bias; c = sigmoid(f) c + sigmoid(i) tanh(g);
    h = sigmoid(o) tanh(c), for the ``counts[t]`` samples that step t has.
    """
    h, c = h.copy(), c.copy()
    first = np.concatenate([[0], np.cumsum(counts)])
    y = np.zeros((len(x), h.shape[1]))
    steps = range(len(counts))
    for t in reversed(steps) if reverse else steps:
        n = counts[t]
        gates = linear(x[first[t] : first[t + 1]], w_ih, bias) + linear(h[:n], w_hh, None)
        i, f, g, o = np.split(gates, 4, axis=1)
        c[:n] = _sigmoid(f) * c[:n] + _sigmoid(i) * np.tanh(g)
        h[:n] = _sigmoid(o) * np.tanh(c[:n])
        y[first[t] : first[t + 1]] = h[:n]
    return y, h, c
