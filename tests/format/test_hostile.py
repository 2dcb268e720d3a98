"""Hostile files: an error of ours that says where, never a crash, a wrong tensor or much memory."""

import contextlib
import runpy
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import billhook
from billhook.errors import FormatError
from billhook.format.codings import CODINGS

HOSTILE = runpy.run_path(str(Path(__file__).with_name("hostile.py")))
CORPUS: dict[str, bytes] = HOSTILE["corpus"]()
coded = HOSTILE["coded"]


@pytest.mark.parametrize("what", CORPUS)
def test_the_corpus(what: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(CORPUS[what])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            billhook.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    if '"w.billhook"' in CORPUS[what].decode("latin1"):
        assert (
            "'w" in str(caught.value)
            or "version" in str(caught.value)
            or "records" in str(caught.value)
        )
    assert peak < 20_000_000


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 30


def test_errors_name_tensor_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(CORPUS["a wrong checksum"])
    begin = len(CORPUS["a wrong checksum"]) - 6
    with pytest.raises(FormatError, match=rf"tensor 'w' at byte {begin}: CRC-32"):
        billhook.load(path)


def small_model() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(5, 4)
    weight[torch.rand(5, 4) < 0.8] = 0.0
    return {"w": weight, "b": torch.tensor([1.0, -0.0]), "tied": weight}


@pytest.mark.parametrize(
    ("encoding", "values", "header"),
    [
        ("relative_index", None, True),
        ("dense", None, False),
        ("entropy", "I8", False),
        ("blocks", None, True),
    ],
)
def test_a_flipped_bit_is_an_error_or_changes_nothing(
    encoding: str, values: str | None, header: bool, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    report = billhook.save(small_model(), path, encoding=encoding, values=values)
    whole, expected = path.read_bytes(), billhook.load(path)
    data_begin = len(whole) - sum(tensor.nbytes for tensor in report.tensors)
    for bit in range(0 if header else 8 * data_begin, 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            loaded = billhook.load(path)
        except FormatError:
            continue
        assert list(loaded) == list(expected)
        for name, tensor in expected.items():
            assert torch.equal(loaded[name].view(torch.int32), tensor.view(torch.int32))


sizes = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**61, 2**63 - 1]))


@st.composite
def records(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A well-formed record with any numbers in it, and its shape."""
    coding = draw(st.sampled_from(list(CODINGS)))
    dtype = draw(st.sampled_from(["F32", "F16", "I64", "BOOL", "F32:I8", "F64:BF16"]))
    shape = draw(st.lists(sizes, max_size=4))
    params = "" if coding == "dense" else f" nnz={draw(sizes)}"
    if coding == "relative_index":
        params += f" stored={draw(sizes)} bits={draw(st.integers(0, 9))}"
    if coding == "blocks":
        sides = draw(st.lists(st.one_of(st.sampled_from([1, 2, 4]), sizes), min_size=3, max_size=3))
        rows, columns, inner = sides
        params += f" stored={draw(sizes)} rows={rows} columns={columns} inner={inner}"
        params += f" blocks={draw(sizes)}"
    return f"{coding} {dtype} [{','.join(map(str, shape))}]{params}", shape


@given(record=records(), data=st.binary(max_size=80))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_record_with_any_data_and_a_right_checksum(
    record: tuple[str, list[int]], data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(coded(record[0], data))
    try:
        tensor = billhook.load(path)["w"]
    except FormatError:
        return
    assert list(tensor.shape) == record[1]
    assert tensor.numel() <= 2048 * len(data) + 255


@given(sparsity=st.floats(0, 1), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_data_under_a_right_checksum(
    sparsity: float, seed: int, data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / "fuzz.safetensors"
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(16, 9, generator=generator) >= sparsity
    encoding = data.draw(st.sampled_from([name for name in CODINGS if name != "dense"]))
    billhook.save({"w": torch.where(keep, 1.0, 0.0)}, path, encoding=encoding)
    with billhook.format.Reader(path) as file:
        record = str(file.record("w"))
        damaged = bytearray(path.read_bytes()[-file.entry_bytes("w") :])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(coded(record, bytes(damaged)))
    with contextlib.suppress(FormatError):
        assert billhook.load(path)["w"].shape == (16, 9)


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(data.draw(st.binary(max_size=300)))
    with pytest.raises(FormatError):
        billhook.load(path)
