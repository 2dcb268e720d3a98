"""The device that a command trains on: the one that was asked for, or an error."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.errors import ConfigurationError
from billhook.training.precision import check_device


def test_an_absent_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="--device 'gpu' is not one of auto, cpu, cuda"):
        check_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no CUDA device here; give --device cpu"):
        check_device("cuda")


def test_auto_is_the_accelerator_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    for present, kind in ((torch.device("xpu"), "xpu"), (None, "cpu")):
        monkeypatch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available, p=present: p
        )
        assert check_device("auto") == kind
        assert check_device("cpu") == "cpu"


@pytest.mark.parametrize("command", [["train", "ptb_lstm"], ["study", "run", "digits"]])
def test_commands_refuse_an_absent_device_before_anything_is_written(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "--device", "gpu"])
    assert "--device 'gpu' is not one of" in f"{done.output}{done.exception}"
    assert list(tmp_path.iterdir()) == []


def test_train_says_the_device(tmp_path: Path) -> None:
    command = ["train", "mobilenet_v1", "--width", "0.1", "--stop-after", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "; on cpu" in done.output
