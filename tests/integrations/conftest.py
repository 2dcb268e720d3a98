import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads waiting for each other cost far more than these tiny models on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What billhook logged."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Collect()
    logging.getLogger("billhook").addHandler(handler)
    with caplog.at_level(logging.INFO, "billhook"):
        yield lines
    logging.getLogger("billhook").removeHandler(handler)


def run_until_killed(call: str) -> None:
    """Run ``call``, a function of a test module, in a process that ends by SIGKILL."""
    module, _, function = call.partition(":")
    done = subprocess.run(
        [sys.executable, "-c", f"import {module} as m; m.{function}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name


def assert_same_optimizer(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    state, expected = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert state.keys() == expected.keys()
    for index, entries in state.items():
        for key, value in entries.items():
            assert torch.equal(value, expected[index][key]), (index, key)
