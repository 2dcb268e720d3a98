"""``billhook estimate``: the numbers are those of the pruned model."""

import gzip
import json
import struct
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import billhook
from billhook.bench import memory
from billhook.cli.app import app
from billhook.cli.bodies.estimate import estimate
from billhook.errors import ConfigurationError


def network() -> nn.Sequential:
    """Pictures of 8 x 8 to two logits."""
    return nn.Sequential(nn.Conv2d(3, 64, 8), nn.Flatten(), nn.Linear(64, 2))


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "mine_estimate", sys.modules[__name__])
    monkeypatch.setattr(memory, "with_steady_memory", lambda: None)  # it starts the process anew
    return "mine_estimate:network"


def _pictures(folder: Path) -> None:
    """IDX files of pictures that are black in class 0 and white in class 1."""
    folder.mkdir()
    for prefix, count in (("train", 300), ("t10k", 100)):
        labels = bytes(i % 2 for i in range(count))
        pixels = b"".join(bytes([255 * label]) * 64 for label in labels)
        for name, head, content in (
            ("images-idx3", struct.pack(">4B3I", 0, 0, 8, 3, count, 8, 8), pixels),
            ("labels-idx1", struct.pack(">4BI", 0, 0, 8, 1, count), labels),
        ):
            with gzip.open(folder / f"{prefix}-{name}-ubyte.gz", "wb") as file:
                file.write(head + content)


def _trained() -> nn.Sequential:
    """Exactly right on these pictures, and still at 90%: one weight decides."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
        model.get_parameter("0.weight")[0] = 0.1
        model.get_parameter("2.weight")[:, 0] = torch.tensor([-1.0, 1.0])
    return model


def test_every_number_is_that_of_the_pruned_model(target: str, tmp_path: Path) -> None:
    model = _trained()
    weights = tmp_path / "trained.safetensors"
    billhook.save(model, weights)
    _pictures(tmp_path / "data")
    options = ["--input", "1,3,8,8", "--sparsity", "0.9", "--weights", str(weights)]
    shown = CliRunner().invoke(
        app, ["estimate", target, *options, "--data", str(tmp_path / "data"), "--json"]
    )
    assert shown.exit_code == 0, shown.exception
    dense, sparse = json.loads(shown.stdout)["rows"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    billhook.Pruner(model, optimizer, billhook.OneShot(0.9)).finalize()
    assert sparse["file_bytes"] == billhook.save(model, tmp_path / "pruned").stored_bytes
    assert sparse["nonzero"] == sum(int(p.count_nonzero()) for p in model.parameters())
    assert (dense["sparsity"], sparse["sparsity"]) == (0.0, 0.9)
    assert dense["file_bytes"] > sparse["file_bytes"]
    assert (dense["metric"], dense["score"], sparse["score"]) == ("top1", 100.0, 100.0)
    assert min(each[time] for each in (dense, sparse) for time in ("eager_ms", "compiled_ms")) > 0


def test_the_table(target: str) -> None:
    shown = CliRunner().invoke(app, ["estimate", target, "--input", "1,3,8,8"])
    assert shown.exit_code == 0, shown.exception
    assert all(
        word in shown.output
        for word in ("as it is", "50.0%", "95.0%", "file, bytes", "compiled, ms")
    )


def test_what_cannot_be_estimated_is_said(target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is for trained weights.* give --weights too"):
        estimate(target, "1,3,8,8", [0.9], data=tmp_path)
    with pytest.raises(ConfigurationError, match=r"fails on an input of \[1, 4, 8, 8\]"):
        estimate(target, "1,4,8,8", [0.9])
    path = tmp_path / "m.safetensors"
    billhook.save({"weight": torch.eye(3)}, path)
    with pytest.raises(ConfigurationError, match="does not fit"):
        estimate(target, "1,3,8,8", [0.9], weights=path)
