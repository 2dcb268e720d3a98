"""``billhook train``: Ctrl-C and TERM, and folders that hold another run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.errors import StateError

SMALL = ["train", "mobilenet_v1", "--width", "0.1", "--epochs", "0.2"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "mobilenet_v1", "--width", "0.1", "--epochs", "100", "--out", "my run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "billhook", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    metrics = tmp_path / "my run" / "metrics.csv"
    deadline = time.monotonic() + 100
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(sent)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert f"to go on: billhook {' '.join(command[:-1])} 'my run'" in out
    assert (tmp_path / "my run" / "checkpoint.pt").exists()
    monkeypatch.chdir(tmp_path)
    again = CliRunner().invoke(app, [*command, "--stop-after", "1"])
    assert "continuing from step" in again.stdout


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*SMALL, *out, "--sparsity", "0.5"])
    assert done.exit_code == 0, done.output
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for other, message in (
        ([], "pruning: was {'sparsity': 0.5"),
        (["--sparsity", "0.6"], r"pruning: sparsity was 0\.5, is now 0\.6"),
        (["--sparsity", "0.5", "--seed", "1"], "recipe: training seed was 0, is now 1"),
        (["--sparsity", "0.5", "--scheme", "global"], "pruning: scheme was standard"),
    ):
        failed = CliRunner().invoke(app, [*SMALL, *out, *other])
        assert isinstance(failed.exception, StateError), failed.output
        with pytest.raises(StateError, match=message):
            raise failed.exception
    again = CliRunner().invoke(app, [*SMALL, *out, "--sparsity", "0.5"])
    assert (again.exit_code, "already finished" in again.output) == (0, True)
    (tmp_path / "run" / "result.json").write_text("{")
    assert isinstance(CliRunner().invoke(app, [*SMALL, *out]).exception, StateError)
    (tmp_path / "run" / "result.json").write_bytes(files[tmp_path / "run" / "result.json"])
    assert files == {path: path.read_bytes() for path in files}


def test_the_result_says_what_decided_the_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*SMALL, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "result.json").read_text())["settings"]
    assert settings["pruning"] is settings["data"] is settings["init"] is None
    assert settings["recipe"]["model"]["width"] == 0.1
