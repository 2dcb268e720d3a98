"""Killed at random points and resumed, a run ends bit for bit where an uninterrupted one ends."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

STEPS = 80
SCRIPT = Path(__file__).with_name("killable.py")


def _run(folder: Path, kill_after: int | None, pause: float = 0.0) -> bool:
    """Whether it ran to its end; SIGKILL once it reported ``kill_after`` more steps."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), str(STEPS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = 0
        for line in process.stdout:
            lines += not line.startswith("from")
            if line == "done\n":
                return True
            if kill_after is not None and lines >= kill_after:
                # Anywhere in the next step or save: the process runs on while we wait.
                _wait(process, pause)
                process.kill()
                break
    return False


def _wait(process: subprocess.Popen[str], pause: float) -> None:
    try:
        process.wait(pause)
    except subprocess.TimeoutExpired:
        return


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)], ids=["3", "20"]
)
def test_killed_and_resumed_equals_uninterrupted(kills: int, seed: int, tmp_path: Path) -> None:
    assert _run(tmp_path / "whole", None)
    chance = random.Random(seed)
    most = 2 * STEPS // kills
    for _ in range(kills):
        _run(tmp_path / "killed", chance.randint(1, most), chance.uniform(0.0, 0.01))
    assert _run(tmp_path / "killed", None)
    whole, killed = (torch.load(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    assert whole["step"] == STEPS
    assert _same(whole, killed)
