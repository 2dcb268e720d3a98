"""Native kernels and their portable twins: the same results, the same refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import billhook
from billhook import native
from billhook.errors import FormatError
from billhook.format import kernels, portable
from billhook.format.density import Axis, DensityModel, fit

pytestmark = pytest.mark.skipif(native.library() is None, reason="no native kernels were built")

sparse_elements = hnp.arrays(
    st.sampled_from(["<u1", "<u2", "<u4", "<u8"]),
    st.integers(0, 2000),
    elements=st.integers(0, 255),
    fill=st.just(0),
)


def same(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


@given(sparse_elements)
def test_bitmask(elements: np.ndarray) -> None:
    nnz = int(np.count_nonzero(elements))
    same(kernels.bitmask_encode(elements, nnz), portable.bitmask_encode(elements, nnz))
    mask, values = kernels.bitmask_encode(elements, nnz)
    same(
        (kernels.bitmask_decode(mask, values, elements.size), elements),
        (portable.bitmask_decode(mask, values, elements.size), elements),
    )


@given(sparse_elements, st.integers(2, 8))
def test_relative_index(elements: np.ndarray, bits: int) -> None:
    gaps = np.diff(np.flatnonzero(elements), prepend=-1, append=elements.size) - 1
    stored = int(np.count_nonzero(elements)) + int((gaps >> bits).sum())
    for count in (kernels.relative_index_padding, portable.relative_index_padding):
        assert count(elements)[bits] == (gaps >> bits).sum()
    got = kernels.relative_index_encode(elements, bits, stored)
    same(got, portable.relative_index_encode(elements, bits, stored))
    for decode in (kernels.relative_index_decode, portable.relative_index_decode):
        assert np.array_equal(decode(got[0], bits, got[1], elements.size), elements)


SHAPES = [
    (1, 1, 3000),
    (1, 1, 20_000),
    (30, 20, 4),
    (7, 0, 1),
    (3, 500, 1),
    (5, 77, 9),
    (16, 64, 1),
]


@given(st.integers(0, 2**32), st.sampled_from(SHAPES))
@settings(deadline=None, max_examples=25)
def test_rans(seed: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    density = rng.random((shape[0], 1, 1)) * rng.random((1, shape[1], 1))
    mask = rng.random(shape) < density
    model = fit(mask)
    packed = np.packbits(mask, bitorder="little")
    for lanes in (1, 8, 64):
        shares = model.shares(shape)
        stream = kernels.rans_encode(packed, lanes, shares)
        assert np.array_equal(stream, portable.rans_encode(packed, lanes, shares))
        for decode in (kernels.rans_decode, portable.rans_decode):
            decoded, used = decode(stream, lanes, shares)
            assert np.array_equal(decoded, packed)
            assert used == stream.size


@given(st.data())
@settings(deadline=None)
def test_both_refuse_the_same_random_bytes(data: st.DataObject) -> None:
    numel = data.draw(st.integers(0, 200))
    mask = data.draw(hnp.arrays("u1", (numel + 7) // 8))
    stored = data.draw(st.integers(0, numel))
    values = np.arange(stored, dtype="<u4")
    bits = data.draw(st.integers(2, 8))
    index = data.draw(hnp.arrays("u1", (stored * bits + 7) // 8))
    stream = data.draw(hnp.arrays("u1", st.integers(0, 60)))
    axis = Axis(np.zeros(1, np.uint8))
    shares = DensityModel(0, axis, axis).shares((numel,))
    for name, arguments in (
        ("bitmask_decode", (mask, values, numel)),
        ("relative_index_decode", (index, bits, values, numel)),
        ("rans_decode", (stream, 4, shares)),
    ):
        outcomes = []
        for module in (kernels, portable):
            try:
                outcomes.append(repr(getattr(module, name)(*arguments)))
            except FormatError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("encoding", ["bitmask", "blocks", "relative_index", "entropy"])
def test_a_build_without_a_compiler_writes_and_reads_the_same_files(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    tensors = {"w": torch.randn(40, 30), "conv": torch.randn(20, 8, 3, 3), "b": torch.randn(9)}
    for tensor in tensors.values():
        tensor[torch.rand(tensor.shape) < 0.85] = 0.0
    billhook.save(tensors, tmp_path / "native", encoding=encoding)
    monkeypatch.setattr(kernels._native, "get", lambda name: None)
    billhook.save(tensors, tmp_path / "portable", encoding=encoding)
    assert (tmp_path / "native").read_bytes() == (tmp_path / "portable").read_bytes()
    loaded = billhook.load(tmp_path / "native")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
