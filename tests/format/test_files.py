"""Files: what safetensors sees, ties, determinism, atomicity."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import ConfigurationError, FormatError, StateError
from billhook.format import Reader


def model() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(64, 48) * (torch.rand(64, 48) < 0.1)
    weight[weight == 0] = 0.0  # multiplication leaves -0.0 at half the zeros
    return {"step": torch.tensor(3), "é weight": weight, "bias": torch.randn(64)}


def test_every_safetensors_reader_opens_a_coded_file(tmp_path: Path) -> None:
    billhook.save(model(), tmp_path / "m.safetensors", encoding=("dense", "bitmask"))
    seen = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert set(seen) == {"step", "é weight.billhook", "bias"}
    assert torch.equal(seen["bias"], model()["bias"])


def test_dense_files_are_plain_safetensors_and_the_other_way_round(tmp_path: Path) -> None:
    billhook.save(model(), tmp_path / "ours.safetensors", encoding="dense")
    safetensors.torch.save_file(model(), tmp_path / "theirs.safetensors")
    for loaded in (
        safetensors.torch.load_file(tmp_path / "ours.safetensors"),
        billhook.load(tmp_path / "theirs.safetensors"),
    ):
        assert {name: t.tolist() for name, t in loaded.items()} == {
            name: t.tolist() for name, t in model().items()
        }
    with safetensors.safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_tied_tensors_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 20)
            self.out = nn.Linear(20, 50)
            self.out.weight = self.embedding.weight

    report = billhook.save(Tied(), tmp_path / "t.billhook.safetensors")
    assert [t.nbytes for t in report.tensors] == [4000, 0, 200]
    loaded = billhook.load(tmp_path / "t.billhook.safetensors")
    assert loaded["out.weight"] is loaded["embedding.weight"]
    only = billhook.load(tmp_path / "t.billhook.safetensors", tensors=["out.weight"])
    assert torch.equal(only["out.weight"], loaded["embedding.weight"])


def test_same_input_same_bytes_and_order_is_kept(tmp_path: Path) -> None:
    billhook.save(model(), tmp_path / "a.safetensors")
    billhook.save(model(), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert list(billhook.load(tmp_path / "a.safetensors")) == list(model())


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    billhook.save(model(), path)
    old = path.read_bytes()

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("billhook.atomic.os.fsync", crash)
    with pytest.raises(OSError, match="power cut"):
        billhook.save({"other": torch.ones(3)}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_truncation_at_every_byte_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    billhook.save({"w": model()["é weight"][:8], "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            billhook.load(path)


def test_lost_metadata_and_reserved_names_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    billhook.save(model(), path, encoding="bitmask")
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    with pytest.raises(
        FormatError, match=r"belongs to a billhook file whose other metadata are gone"
    ):
        billhook.load(path)
    with pytest.raises(ConfigurationError, match="reserved"):
        billhook.save({"w.billhook": torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"\ud800": torch.ones(2)}, "not valid Unicode"),
        ({"__metadata__": torch.ones(2)}, "reserved"),
        ({"w": 3.0}, "maps to a float"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "cannot be stored"),
        ({"w": torch.eye(2).to_sparse()}, "has no plain values"),
        ({"w": torch.ones(2, device="meta")}, "has no plain values"),
        ({"w": nn.LazyLinear(3).weight}, "'w' has no values yet"),
        ({"w": FakeTensorMode().from_tensor(torch.ones(3))}, "a FakeTensor, whose values lie"),
        ({"w": torch._to_functional_tensor(torch.ones(3))}, "a transform of torch.func under way"),
    ],
)
def test_what_cannot_be_stored_is_an_error(
    tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        billhook.save(tensors, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_dense_file_draws_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"model\.billhook\.safetensors"):
        billhook.save(model(), tmp_path / "model.safetensors")
    billhook.save(model(), tmp_path / "model.safetensors", encoding="dense")


def test_only_the_tensors_asked_for_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    billhook.save(model(), path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1  # in the coded tensor, which comes last
    path.write_bytes(damaged)
    assert torch.equal(billhook.load(path, tensors=["bias"])["bias"], model()["bias"])
    with pytest.raises(FormatError, match="tensor 'é weight' at byte"):
        billhook.load(path)
    with pytest.raises(FormatError, match="has no tensor 'gain'; it has step, é weight, bias"):
        billhook.load(path, tensors=["gain"])


def test_a_coding_of_a_later_release_spoils_only_its_own_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    billhook.save(model(), path, encoding=("dense", "bitmask"))
    path.write_bytes(path.read_bytes().replace(b" bitmask F32", b" bitmark F32"))
    assert set(billhook.load(path, tensors=["bias", "step"])) == {"bias", "step"}
    with pytest.raises(FormatError, match="unknown coding 'bitmark'|CRC-32"):
        billhook.load(path)


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    billhook.save(model(), tmp_path / "m.safetensors")
    with Reader(tmp_path / "m.safetensors") as file:
        bias = file.tensor("bias")
    assert torch.equal(bias, model()["bias"])
    with pytest.raises(StateError, match="is closed"):
        file.tensor("bias")


def test_inspect_shows_the_table(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    report = billhook.save(model(), path, encoding=("dense", "bitmask"))
    nnz = int(torch.count_nonzero(model()["é weight"]))
    shown = CliRunner().invoke(app, ["inspect", str(path)], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    for text in ("é weight", "64x48", "F32", f"{1 - nnz / 3072:.2%}", str(nnz), "bitmask"):
        assert text in shown.output
        assert text in str(report)
        assert text in str(billhook.inspect(path))


def test_version() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert billhook.__version__ in shown.output
    assert "native kernels" in shown.output


@pytest.mark.parametrize("argument", [{"metadata": ["a"]}, {"metadata": "abc"}])
def test_metadata_that_map_nothing_are_refused(argument: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="metadata maps strings to strings, and is a"):
        billhook.save({"w": torch.ones(3)}, tmp_path / "m", **argument)


@pytest.mark.parametrize("encoding", [None, 3, [], {"dense": 1}])
def test_encodings_of_wrong_types_are_refused(encoding: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="names no coding; use 'auto'"):
        billhook.save({"w": torch.ones(3)}, tmp_path / "m", encoding=encoding)


def test_a_tensor_without_memory_is_not_stored(tmp_path: Path) -> None:
    weight = torch.ones(50)
    weight.untyped_storage().resize_(0)  # as FSDP does between two passes
    with pytest.raises(ConfigurationError, match="'w' has lost its memory"):
        billhook.save({"w": weight}, tmp_path / "m")
