"""The conformance suite: what every registered coding must do."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import billhook
from billhook import testing
from billhook.errors import ConfigurationError, FormatError
from billhook.footprint import TensorSpec, expected_footprint
from billhook.format.bitmask import Bitmask
from billhook.format.coding import Encoded
from billhook.format.codings import CODINGS
from billhook.format.dtypes import DTYPES, from_elements, to_elements, width

coding_names = pytest.mark.parametrize("name", CODINGS)


def sparse(numel: int, sparsity: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    elements = rng.integers(1, 2**32, numel, dtype="<u4")
    elements[rng.permutation(numel)[: round(sparsity * numel)]] = 0
    return elements


@coding_names
def test_every_coding_passes_the_checks_that_others_can_run(name: str) -> None:
    testing.check_coding(CODINGS[name])


class Broken(Bitmask):
    """A coding with one fault, which must be seen."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        object.__setattr__(self, "fault", fault)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == super().__getattribute__("__dict__").get("fault", "").partition(":")[0]:
            return lambda *given: FAULTS[self.fault](found, *given)
        return found


FAULTS: dict[str, Callable[..., Any]] = {
    "decode:other elements": lambda decode, encoded, shape: decode(encoded, shape) + 1,
    "decode:wider": lambda decode, encoded, shape: decode(encoded, shape).astype("<u8"),
    "decode:flat": lambda decode, encoded, shape: decode(encoded, shape).reshape(-1),
    "encode:one value too many": lambda encode, elements, layout: replace(
        encode(elements, layout), values=np.zeros(layout.values + 1, elements.dtype)
    ),
    "expect:too few": lambda expect, numel, nnz, width: replace(
        expect(numel, nnz, width), index_bytes=0
    ),
    "nonzeros:one bit too many": lambda nonzeros, encoded, shape: (
        nonzeros(encoded, shape)[0] | 1,
        encoded.values,
    ),
    "check_entry:anything": lambda check, numel, params, room, width: params.get("nnz", 0),
    "check_entry:other count": lambda check, *given: check(*given) + 1,
    "measure:writes": lambda measure, elements, nnz: (elements.fill(0), measure(elements, nnz))[1],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_coding_with_a_fault_does_not_pass(fault: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        testing.check_coding(Broken(fault))


def round_trip(name: str, elements: np.ndarray) -> None:
    coding = CODINGS[name]
    layout = coding.measure(elements, int(np.count_nonzero(elements)))
    decoded = coding.decode(coding.encode(elements, layout), elements.shape)
    assert decoded.dtype == elements.dtype
    assert np.array_equal(decoded, elements)


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
@given(data=st.data())
def test_a_corrupt_index_is_an_error_or_some_tensor_of_the_right_size(
    name: str, data: st.DataObject
) -> None:
    elements = sparse(1000, 0.9)
    encoded = CODINGS[name].encode(elements, CODINGS[name].measure(elements, 100))
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
