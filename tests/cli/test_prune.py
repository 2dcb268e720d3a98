from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import ConfigurationError


def _file(folder: Path) -> Path:
    torch.manual_seed(0)
    model = nn.ModuleDict({"embedding": nn.Embedding(40, 16), "body": nn.Linear(16, 32)})
    model["head"] = nn.Linear(16, 40, bias=False)
    model["head"].weight = model["embedding"].weight
    state = model.state_dict() | {"steps": torch.tensor(3)}
    billhook.save(state, folder / "dense.safetensors")
    return folder / "dense.safetensors"


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["prune", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_prune_writes_a_smaller_file_with_exact_counts(tmp_path: Path) -> None:
    source, out = _file(tmp_path), tmp_path / "sparse.safetensors"
    shown = _run(source, "--sparsity", "0.75", "--out", out)
    assert "75.00%" in shown
    before, after = billhook.load(source), billhook.load(out)
    assert after.keys() == before.keys()
    assert after["body.weight"].count_nonzero() == 128
    assert after["embedding.weight"].count_nonzero() == 160
    assert torch.equal(after["embedding.weight"], after["head.weight"])
    assert torch.equal(after["body.bias"], before["body.bias"])
    kept = after["body.weight"] != 0
    assert torch.equal(after["body.weight"][kept], before["body.weight"][kept])
    assert out.stat().st_size < source.stat().st_size


def test_prune_by_blocks_groups_and_globs(tmp_path: Path) -> None:
    source, out = _file(tmp_path), tmp_path / "sparse.safetensors"
    options = (source, "--sparsity", "0.5", "--out", out)
    _run(*options, "--block", "8x1", "--dense", "*embedding*", "--dense", "head.*")
    blocks = billhook.load(out)["body.weight"].view(4, 8, 16)
    assert ((blocks != 0).all(1) | (blocks == 0).all(1)).all()
    _run(*options, "--nm", "2:4", "--json")
    groups = billhook.load(out)["body.weight"].view(-1, 4)
    assert ((groups != 0).sum(1) == 2).all()
    _run(*options, "--global")
    counts = {n: int(t.count_nonzero()) for n, t in billhook.load(out).items() if t.dim() == 2}
    assert counts["embedding.weight"] + counts["body.weight"] == 576


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--block", "8"], "--block '8' is not two numbers"),
        (["--block", "8x1", "--nm", "2:4"], "give one of them"),
        (["--dense", "decoder.*"], "--dense 'decoder.*' matches none"),
        (["--dense", "*"], "nothing is left to prune"),
        (["--block", "64x64"], "larger than a tensor"),
    ],
)
def test_bad_options(options: list[str], cause: str, tmp_path: Path) -> None:
    source, out = _file(tmp_path), tmp_path / "sparse.safetensors"
    with pytest.raises(ConfigurationError, match=cause.replace("*", r"\*")):
        _run(source, "--sparsity", "0.5", "--out", out, *options)
    assert not out.exists()
    with pytest.raises(ConfigurationError, match="would be overwritten"):
        _run(source, "--sparsity", "0.5", "--out", source)
