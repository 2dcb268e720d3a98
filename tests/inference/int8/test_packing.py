"""The packings in 8 bits made by the kernels' library equal naive ones."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.inference import kernels
from billhook.inference.int8 import packing
from billhook.inference.int8.packing import Packed, Rows

from . import naive_packing as naive
from .strategies import GROUPS, weights

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
SIZES = st.integers(1, 40), st.integers(1, 150)


def rows_of(value: np.ndarray) -> Rows:
    """With a bias and a scale for each row that say which it is."""
    count = np.arange(len(value))
    return Rows(value, (count + 1).astype(np.int32), (count + 1).astype(np.float32))


def same(packed: Packed, wanted: dict[str, list[int]]) -> None:
    """The arrays begin as they should; zeros that may be read follow."""
    for name, own in wanted.items():
        given = packed.arrays[name].ravel().tolist()
        assert given[: len(own)] == own, name
        assert not any(given[len(own) :]), name


def of_rows(packed: Packed, rows: Any) -> None:
    """Each row has its bias and scale, what is beyond the rows zeros."""
    numbers = [int(r) + 1 for r in rows]
    for name in ("bias", "scale"):
        assert packed.arrays[name].tolist() == numbers, name


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(GROUPS), st.booleans(), st.booleans())
def test_blocks_and_packs(data: st.DataObject, group: int, every: bool, words: bool) -> None:
    value = data.draw(weights(tuple(data.draw(size) for size in SIZES)))
    packed = packing.pack_blocks(rows_of(value), group, dense=every, words=words)
    same(packed, naive.blocks(value, group, every, words))
    assert packed.arrays["value"].itemsize == 1 + words
    length = packed.struct.group * packed.struct.groups
    of_rows(packed, [r if r < len(value) else -1 for r in range(length)])
    packed = packing.pack_vector(rows_of(value), group, words=words)
    wanted = naive.packs(value, group, words)
    same(packed, wanted)
    of_rows(packed, wanted["row"])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_windows(data: st.DataObject) -> None:
    value = data.draw(weights(tuple(data.draw(size) for size in SIZES)))
    same(packing.pack_windows(rows_of(value), stream=False), naive.windows(value))
    packed = packing.pack_windows(rows_of(value), stream=True)
    same(packed, naive.stream(value) | {"ptr": naive.windows(value)["ptr"]})
    of_rows(packed, [r if r < len(value) else -1 for r in range(16 * packed.struct.packs)])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 2), st.booleans())
def test_filters_of_single_channels(data: st.DataObject, stride: int, words: bool) -> None:
    taps = data.draw(weights(tuple(data.draw(st.integers(1, most)) for most in (11, 4, 12))))
    rows = rows_of(taps.reshape(len(taps), -1))
    packed = packing.pack_depthwise(rows, taps.shape[1:], stride, words=words)
    same(packed, {"value": naive.quads(taps, stride, words)})
    of_rows(packed, [r if r < len(taps) else -1 for r in range(-(-len(taps) // 4) * 4)])


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_a_convolution_is_a_matrix(data: st.DataObject, groups: int) -> None:
    shape = tuple(data.draw(st.integers(1, most)) for most in (5, 6, 3, 4))
    weight = data.draw(weights((groups * shape[0], *shape[1:])))
    given = packing.as_matrix(weight, groups)
    assert given.tolist() == naive.matrix(weight, groups)
    rows = rows_of(given)
    shifted = packing.rows_for("neondot", rows).bias.tolist()
    assert shifted == (rows.bias + 128 * given.astype(int).sum(axis=1)).tolist()
    assert packing.rows_for("avx2", rows) is rows
