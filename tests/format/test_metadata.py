"""What stands beside the tensors: the user's metadata, header limits, dtypes of other releases."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import ConfigurationError, FormatError
from billhook.format import container
from billhook.format.codings import CODINGS
from billhook.format.interchange import read, read_metadata

MINE = {"author": "me", "license": "mit", "": "", "ключ": "\x1b[31m\n"}
WEIGHT = torch.eye(40)


@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
def test_metadata_are_kept(encoding: str, tmp_path: Path) -> None:
    report = billhook.save({"w": WEIGHT}, tmp_path / "m", encoding=encoding, metadata=MINE)
    assert billhook.inspect(tmp_path / "m").metadata == MINE
    with safetensors.safe_open(tmp_path / "m", "pt") as file:
        assert MINE.items() <= file.metadata().items()
    plain = billhook.save({"w": WEIGHT}, tmp_path / "p", encoding="dense", metadata=MINE)
    assert report.dense_bytes == plain.stored_bytes == (tmp_path / "p").stat().st_size


@pytest.mark.parametrize("encoding", ["dense", "auto"])
def test_convert_keeps_the_metadata_of_other_tools(encoding: str, tmp_path: Path) -> None:
    metadata = {"format": "pt", "author": "me"}
    safetensors.torch.save_file({"w": WEIGHT}, tmp_path / "a", metadata=metadata)
    command = ["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--encoding", encoding]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert read_metadata(tmp_path / "b") == {"author": "me"}
    torch.save({"w": WEIGHT}, tmp_path / "t")
    assert read_metadata(tmp_path / "t") == {}


@pytest.mark.parametrize("metadata", [{"@w": "x"}, {"billhook": "1 1"}, {"format": "tf"}, {"a": 1}])
def test_metadata_that_are_the_formats_own_are_refused(
    metadata: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="metadata"):
        billhook.save({"w": WEIGHT}, tmp_path / "m", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_save_never_writes_a_header_that_load_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MAX_HEADER", 2000)
    for count in range(5, 15):
        tensors = {f"layer.{i}": torch.ones(1) for i in range(count)}
        billhook.save(tensors, tmp_path / "m", gzip=False)
        assert list(billhook.load(tmp_path / "m")) == list(tensors)
    with pytest.raises(ConfigurationError, match="several files"):
        billhook.save({f"layer.{i}": torch.ones(1) for i in range(60)}, tmp_path / "m", gzip=False)
    assert list(billhook.load(tmp_path / "m")) == list(tensors)


@pytest.mark.parametrize(
    "name", ["", " ", "\n", "a\nb", "\x00", "\x1b[31m", "tied x", "@w", "billhook", "format", "é"]
)
def test_any_other_name_comes_back(name: str, tmp_path: Path) -> None:
    tensors = {name: WEIGHT, "other": torch.ones(2), "tied": WEIGHT}
    for encoding in ("dense", "bitmask"):
        billhook.save(tensors, tmp_path / "m", encoding=encoding)
        loaded = billhook.load(tmp_path / "m")
        assert list(loaded) == list(tensors)
        assert torch.equal(loaded[name], WEIGHT)


def with_unknown_dtype(path: Path) -> None:
    header = {
        "odd": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [3, 7]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(3) + b"\0\0\x80\x3f")


def test_one_unknown_dtype_leaves_the_other_tensors_readable(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with_unknown_dtype(path)
    assert billhook.load(path, tensors=["w"])["w"].tolist() == [1.0]
    with pytest.raises(FormatError, match="tensor 'odd' at byte .*unknown dtype 'F6_E2M3'"):
        billhook.load(path)
    odd, w = billhook.inspect(path).tensors
    assert (odd.dtype, odd.shape, odd.nnz, odd.floor_bytes) == ("F6_E2M3", (4,), None, 0)
    assert (w.nnz, w.sparsity) == (1, 0.0)
    assert "F6_E2M3" in str(billhook.inspect(path))


def test_every_dtype_that_safetensors_stores(tmp_path: Path) -> None:
    dtypes = [d for d in vars(torch).values() if isinstance(d, torch.dtype)]
    stored = 0
    for dtype in dict.fromkeys(dtypes):
        try:
            tensor = torch.arange(64, dtype=torch.uint8).reshape(4, 16).view(dtype)
            if dtype == torch.bool:
                tensor = torch.ones(3, dtype=torch.bool)
            safetensors.torch.save_file({"x": tensor}, tmp_path / "theirs")
        except Exception:  # not a dtype that it stores
            continue
        stored += 1
        billhook.save({"x": tensor}, tmp_path / "ours")
        for path in (tmp_path / "theirs", tmp_path / "ours"):
            loaded = billhook.load(path)["x"]
            assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(loaded.view(torch.uint8), tensor.view(torch.uint8))
    assert stored >= 20


@pytest.mark.parametrize("extra", range(64))
def test_a_safetensors_file_is_one_whatever_its_header_s_length(extra: int, tmp_path: Path) -> None:
    """The length comes first, and in one file of 32 looks like the start of a pickle or archive."""
    tied = torch.ones(2)
    shared = {"w": tied, "tied": tied.clone(), "x" * (8 * extra + 1): torch.zeros(1)}
    safetensors.torch.save_file(shared, tmp_path / "plain.safetensors")
    billhook.save({**shared, "tied": tied}, tmp_path / "coded.safetensors")
    lengths = set()
    for name in ("plain", "coded"):
        path = tmp_path / f"{name}.safetensors"
        lengths.add(path.read_bytes()[0])
        assert set(read(path)) == set(shared)
    assert all(length % 8 == 0 for length in lengths)


def test_values_are_refused_for_a_compiled_program(tmp_path: Path) -> None:
    model = nn.Linear(16, 16).eval()
    fast = billhook.compile(model, torch.ones(1, 16))
    with pytest.raises(ConfigurationError, match="compiled program"):
        billhook.save(fast, tmp_path / "p", values="F16")
    billhook.save(fast, tmp_path / "p")


def test_the_footprint_of_tied_weights_is_that_of_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False))
    model[1].weight = model[0].weight
    for encoding in (*CODINGS, "auto", ("dense", "bitmask")):
        report = billhook.save(model, tmp_path / "m", encoding=encoding)
        assert billhook.footprint(model).file_bytes(encoding) == report.stored_bytes
