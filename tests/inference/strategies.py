"""Weights and inputs for the kernels' property tests: any sparsity, and the values that bite."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ODD_VALUES = np.array([np.inf, -np.inf, np.nan, 1e-40, -1e-45, 1e30, -0.0], np.float32)


@st.composite
def sparse(draw: st.DrawFn, shape: tuple[int, ...]) -> Floats:
    """A weight of any sparsity from 0 to 1, some rows and columns empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.9, 1.0]))
    weight = rng.standard_normal(shape) * (rng.random(shape) < density)
    if draw(st.booleans()):
        weight[rng.random(shape[0]) < 0.3] = 0.0
        weight[:, rng.random(shape[1]) < 0.3] = 0.0
    return weight.astype(np.float32)


@st.composite
def values(draw: st.DrawFn, shape: tuple[int, ...]) -> Floats:
    """Normal numbers, with or without denormals, infinities, NaN and negative zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal(shape).astype(np.float32)
    if draw(st.booleans()):
        odd = rng.random(shape) < 0.05
        x[odd] = rng.choice(ODD_VALUES, size=int(odd.sum()))
    return x


def misaligned(array: Floats, floats: int) -> Floats:
    """The same numbers, starting ``floats`` floats after a 64-byte boundary."""
    buffer = np.empty(array.size + 32, np.float32)
    start = (-buffer.ctypes.data // 4) % 16 + floats
    result = buffer[start : start + array.size].reshape(array.shape)
    result[...] = array
    return result


def assert_close(given: Any, wanted: Any, terms: int = 1000) -> None:
    """Equal to fp32 rounding of sums; infinities and NaN in the same places."""
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    assert given.shape == wanted.shape
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(given[~finite], wanted[~finite])
    scale = 1e-6 * np.sqrt(terms) * max(1.0, float(np.abs(wanted[finite]).max(initial=0.0)))
    assert np.abs(given[finite] - wanted[finite]).max(initial=0.0) <= scale
