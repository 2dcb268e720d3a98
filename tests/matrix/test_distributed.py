"""DDP and FSDP2 on the CPU: see the modules of ranks/ for what each check says."""

import json
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import spawn

from .ranks.launch import CHECKS, run_all

Outcomes = list[dict[str, str]]


def _run(size: int, folder: Path) -> Outcomes:
    spawn(run_all, (size, str(folder)), nprocs=size)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return _run(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def on_four(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return _run(4, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("check", CHECKS)
def test_on_two_processes(check: str, on_two: Outcomes) -> None:
    failures = [outcome[check] for outcome in on_two if outcome[check]]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_on_four_processes(check: str, on_four: Outcomes) -> None:
    failures = [outcome[check] for outcome in on_four if outcome[check]]
    assert not failures, "\n".join(failures)
