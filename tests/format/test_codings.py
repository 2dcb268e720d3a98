"""The conformance suite: what every registered coding must do."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import billhook
from billhook.errors import ConfigurationError, FormatError
from billhook.footprint import TensorSpec, expected_footprint
from billhook.format.coding import Encoded
from billhook.format.codings import CODINGS
from billhook.format.dtypes import DTYPES, from_elements, to_elements, width

coding_names = pytest.mark.parametrize("name", CODINGS)


def sparse(numel: int, sparsity: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    elements = rng.integers(1, 2**32, numel, dtype="<u4")
    elements[rng.permutation(numel)[: round(sparsity * numel)]] = 0
    return elements


def round_trip(name: str, elements: np.ndarray) -> Encoded:
    coding = CODINGS[name]
    layout = coding.measure(elements, int(np.count_nonzero(elements)))
    encoded = coding.encode(elements, layout)
    assert encoded.values.dtype == elements.dtype
    assert (encoded.values.size, encoded.index.size) == (layout.stored, layout.index_bytes)
    room = layout.stored * elements.itemsize + layout.index_bytes
    stored = coding.stored(elements.size, encoded.params, room, elements.itemsize)
    assert stored == layout.stored
    decoded = coding.decode(encoded, elements.shape)
    assert decoded.dtype == elements.dtype
    assert np.array_equal(decoded, elements)
    mask, values = coding.nonzeros(encoded, elements.shape)
    assert np.array_equal(mask, np.packbits(elements.reshape(-1) != 0, bitorder="little"))
    assert np.array_equal(values, elements[elements != 0])
    return encoded


@coding_names
@given(
    elements=hnp.arrays(
        st.sampled_from(["<u1", "<u2", "<u4", "<u8"]),
        st.integers(0, 3000),
        elements=st.integers(0, 255),
        fill=st.just(0),
    )
)
def test_round_trip(name: str, elements: np.ndarray) -> None:
    round_trip(name, elements)


@coding_names
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("numel", [0, 1, 7, 8, 9, 255, 256, 257, 10_007, 70_000])
def test_round_trip_at_every_sparsity(name: str, sparsity: float, numel: int) -> None:
    round_trip(name, sparse(numel, sparsity))


@coding_names
def test_expectation_is_near_the_count_and_equal_where_it_says_exact(name: str) -> None:
    elements = sparse(100_000, 0.9)
    expected = CODINGS[name].expect(100_000, 10_000, 4)
    measured = CODINGS[name].measure(elements, 10_000)
    if expected.exact:
        assert expected == measured
    sizes = [each.stored * 4 + each.index_bytes for each in (expected, measured)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.005)


@coding_names
def test_the_entry_must_have_the_size_its_parameters_say(name: str) -> None:
    encoded = round_trip(name, sparse(1000, 0.9))
    room = encoded.values.nbytes + encoded.index.nbytes
    if name != "entropy":  # whose index may have any length; its decoder counts what it consumed
        for wrong in (room - 1, room + 1):
            with pytest.raises(FormatError):
                CODINGS[name].stored(1000, encoded.params, wrong, 4)
    for params in ({}, {"nnz": 1001}, {**encoded.params, "extra": 1}):
        if params != encoded.params:
            with pytest.raises(FormatError):
                CODINGS[name].stored(1000, params, room, 4)


@coding_names
@given(data=st.data())
def test_a_corrupt_index_is_an_error_or_some_tensor_of_the_right_size(
    name: str, data: st.DataObject
) -> None:
    encoded = round_trip(name, sparse(1000, 0.9))
    index = data.draw(hnp.arrays("u1", len(encoded.index)))
    try:
        decoded = CODINGS[name].decode(Encoded(encoded.values, index, encoded.params), (1000,))
    except FormatError:
        return
    assert decoded.shape == (1000,)


EVERY_BIT_PATTERN = {
    "F32": [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 0xFFFFFFFF, 1],
    "F16": [0, 1 << 15, 0x7C00, 0xFC00, 0x7E01, 0x7C01],
    "BF16": [0, 1 << 15, 0x7F80, 0xFF80, 0x7FC1, 0x7F81],
    "F64": [0, 1 << 63, 0x7FF0 << 48, (0x7FF8 << 48) + 1, (0x7FF0 << 48) + 1],
    "BOOL": [0, 1],
}


@coding_names
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (13,), (4, 5), (2, 3, 2, 2, 3)])
def test_files_round_trip_bit_for_bit(
    name: str, dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    size = width(dtype)
    bits = EVERY_BIT_PATTERN.get(dtype, [0, 0, 1, 0x7F, 0xFF])
    numel = math.prod(shape)
    elements = np.resize(np.array(bits, dtype=f"<u{size}"), numel)
    tensor = from_elements(elements.reshape(shape), dtype)
    path = tmp_path / "t.safetensors"
    if dtype == "F4" and not shape:
        with pytest.raises(ConfigurationError, match="scalar of F4"):
            billhook.save({"t": tensor}, path, encoding=name)
        return
    report = billhook.save({"t": tensor}, path, encoding=name)
    loaded = billhook.load(path)["t"]
    assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
    assert np.array_equal(to_elements(loaded), elements.reshape(shape))
    assert report.stored_bytes == path.stat().st_size
    assert report.stored_bytes == billhook.footprint({"t": tensor}).file_bytes(name)
    assert report.tensors == billhook.inspect(path).tensors


def test_footprint_from_counts_equals_the_written_file(tmp_path: Path) -> None:
    shapes = {"a.weight": (300, 120), "a.bias": (300,), "b.weight": (10, 300), "c": (7,)}
    for sparsity in np.linspace(0, 1, 23):
        tensors = {
            name: torch.from_numpy(sparse(math.prod(shape), sparsity).view("<f4")).reshape(shape)
            for name, shape in shapes.items()
        }
        specs = [
            TensorSpec(name, tuple(t.shape), int(torch.count_nonzero(t.view(torch.int32))))
            for name, t in tensors.items()
        ]
        for encoding in ("dense", "bitmask", ("dense", "bitmask")):
            report = billhook.save(tensors, tmp_path / "t.safetensors", encoding=encoding)
            assert expected_footprint(specs).file_bytes(encoding) == report.stored_bytes
            assert billhook.footprint(tensors).file_bytes(encoding) == report.stored_bytes
        assert report.dense_bytes == expected_footprint(specs).file_bytes("dense")


def test_an_unknown_encoding_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="names no coding"):
        billhook.footprint({}).file_bytes("zip")  # an empty dict is checked too
