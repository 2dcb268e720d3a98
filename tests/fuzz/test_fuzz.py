"""The fuzzer in small, with fixed seeds; ``make fuzz`` goes on for hours."""

import random
from pathlib import Path
from types import ModuleType

import pytest

from billhook.inference import kernels

from . import coded, layers, programs, runtime, steps
from .files import build, parse


def test_what_is_not_changed_is_put_together_as_it_was(tmp_path: Path) -> None:
    for file in coded.seeds(tmp_path):
        assert coded.check(tmp_path / "file", build(file)) == "read"
        assert parse(build(file)) == file


def test_changed_files_of_tensors(tmp_path: Path) -> None:
    seeds = coded.seeds(tmp_path)
    results = [
        coded.check(tmp_path / "file", coded.make(random.Random(f"test/{i}"), seeds))
        for i in range(800)
    ]
    assert results.count("read") > 50  # or the changes reach nothing
    assert results.count("refused") > 300


@pytest.mark.skipif(not kernels.available(), reason="no native kernels")
@pytest.mark.parametrize("kind", [programs, layers])
def test_changed_programs(kind: ModuleType, tmp_path: Path) -> None:
    seeds = kind.seeds(tmp_path)
    assert {kind.check(tmp_path / "file", build(file)) for file in seeds} == {"ran"}
    results = [
        kind.check(tmp_path / "file", kind.make(random.Random(f"test/{i}"), seeds))
        for i in range(150)
    ]
    assert results.count("ran") > 10
    assert results.count("refused") > 50


@pytest.mark.skipif(not runtime.LIBRARY.exists(), reason="`make runtime` has not been run")
def test_changed_steps(tmp_path: Path) -> None:
    seeds = steps.seeds(tmp_path)
    assert {steps.check(tmp_path / "file", build(file)) for file in seeds} == {"ran"}
    results = [
        steps.check(tmp_path / "file", steps.make(random.Random(f"test/{i}"), seeds))
        for i in range(400)
    ]
    assert results.count("ran") > 50
    assert results.count("refused") > 100
