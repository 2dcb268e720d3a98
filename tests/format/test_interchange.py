"""Checkpoints of other tools come out as the dense weights those tools compute with."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.ao.pruning.sparsifier.weight_norm_sparsifier import WeightNormSparsifier
from torch.nn.utils import prune
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import FormatError
from billhook.format.interchange import read, to_dense


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))


def plus_zero(weight: torch.Tensor | nn.Module) -> torch.Tensor:
    assert isinstance(weight, torch.Tensor)
    return torch.where(weight == 0, 0.0, weight.detach())


def convert(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def test_torch_prune(tmp_path: Path) -> None:
    pruned = model()
    prune.l1_unstructured(pruned[0], "weight", 0.9)
    prune.random_unstructured(pruned[2], "bias", 0.5)
    torch.save(pruned.state_dict(), tmp_path / "in.pt")
    output = convert(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert "90.00%" in output
    loaded = billhook.load(tmp_path / "out.safetensors")
    assert set(loaded) == set(model().state_dict())
    for name, expected in (("0.weight", pruned[0].weight), ("2.bias", pruned[2].bias)):
        got = loaded[name]
        assert torch.equal(got.view(torch.int32), plus_zero(expected).view(torch.int32))


def test_torch_prune_of_a_recurrent_layer() -> None:
    lstm = nn.LSTM(4, 3)
    prune.random_unstructured(lstm, "weight_hh_l0", 0.5)
    dense = to_dense(lstm.state_dict())
    assert set(dense) == set(nn.LSTM(4, 3).state_dict())
    assert torch.equal(dense["weight_hh_l0"], plus_zero(lstm.weight_hh_l0))


def test_torch_ao_pruning(tmp_path: Path) -> None:
    pruned = model()
    sparsifier = WeightNormSparsifier(sparsity_level=0.8, sparse_block_shape=(1, 1))
    sparsifier.prepare(pruned, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    torch.save({"state_dict": pruned.state_dict()}, tmp_path / "in.pt")
    masks = {name: each["mask"] for name, each in sparsifier.state_dict()["state"].items()}
    torch.save(masks, tmp_path / "masks.pt")
    with pytest.raises(FormatError, match=r"has no mask: .*\(--masks\)"):
        read(tmp_path / "in.pt")
    convert(tmp_path / "in.pt", tmp_path / "out", "--masks", tmp_path / "masks.pt")
    loaded = billhook.load(tmp_path / "out")
    assert set(loaded) == set(model().state_dict())
    assert torch.equal(loaded["0.weight"], plus_zero(pruned[0].weight))
    assert 0.7 < (loaded["0.weight"] == 0).float().mean() < 0.9


def compressed(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What compressed-tensors 0.9 writes, by its documentation."""
    mask = (weight != 0).numpy()
    counts = torch.from_numpy(mask.sum(axis=-1))
    return {
        f"{name}.shape": torch.tensor(weight.shape),
        f"{name}.compressed": weight[weight != 0],
        f"{name}.bitmask": torch.from_numpy(np.packbits(mask, axis=-1, bitorder="little")),
        f"{name}.row_offsets": counts.cumsum(0) - counts,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_compressed_tensors(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    weight = (torch.randn(13, 21) * (torch.rand(13, 21) < 0.3)).to(dtype)
    tensors = compressed(f"model.layer{suffix}", weight) | {"model.norm.weight": torch.ones(3)}
    safetensors.torch.save_file(tensors, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--encoding", "dense")
    loaded = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert set(loaded) == {"model.layer.weight", "model.norm.weight"}
    assert torch.equal(loaded["model.layer.weight"], weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l.shape": torch.tensor([13, 99])}, "a bitmask of 39 bytes"),
        ({"l.shape": torch.tensor([2**40, 2**40])}, "a bitmask of 39 bytes"),
        ({"l.shape": torch.tensor([-1, 21])}, "shape"),
        ({"l.compressed": torch.ones(5)}, "bits set for 5 stored values"),
        ({"l.bitmask": torch.full((13, 3), 255, dtype=torch.uint8)}, "bits beyond column 21"),
    ],
)
def test_bad_bitmasks_are_errors(change: dict[str, torch.Tensor], message: str) -> None:
    tensors = compressed("l", torch.randn(13, 21) * (torch.rand(13, 21) < 0.3))
    with pytest.raises(FormatError, match=rf"'l\.weight': .*{message}"):
        to_dense(tensors | change)


def test_bad_masks_are_errors() -> None:
    original = torch.ones(4)
    for mask, message in ((torch.ones(3), "shape"), (torch.full((4,), 0.5), "other than 0 and 1")):
        with pytest.raises(FormatError, match=message):
            to_dense({"w_orig": original, "w_mask": mask})
    with pytest.raises(FormatError, match="no 'w_mask' beside it"):
        to_dense({"w_orig": original})


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_pickles_that_run_code_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.ones(2), "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(FormatError, match="to open it would run code"):
        read(tmp_path / "evil.pt")
    assert capsys.readouterr().out == ""


def test_a_plain_state_dict_and_our_own_files_pass_through(tmp_path: Path) -> None:
    tensors = model().state_dict()
    torch.save(tensors, tmp_path / "in.pt")
    convert(tmp_path / "in.pt", tmp_path / "a.safetensors", "--values", "F16")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    loaded = billhook.load(tmp_path / "b.safetensors")
    assert torch.equal(loaded["0.weight"], tensors["0.weight"].half().float())


def test_of_several_state_dicts_the_one_that_is_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "two.pt"
    torch.save({"ema": {"w": torch.zeros(2)}, "model": {"w": torch.ones(2)}, "epoch": 3}, path)
    with caplog.at_level("INFO", logger="billhook"):
        assert torch.equal(read(path)["w"], torch.ones(2))
    assert [r.getMessage() for r in caplog.records] == [f"{path}: read 'model'; 'ema' left out"]
