"""A second reader of programs, written from SPEC.md, computes what billhook's own does."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import billhook
from billhook.inference import kernels

from .test_compile import CNNS, forced, pruned

ROOT = Path(__file__).parents[2]
VECTORS = sorted((ROOT / "runtime/tests/vectors").glob("*.safetensors"))
READER = runpy.run_path(str(ROOT / "tests/format/independent_program.py"))


@pytest.mark.skipif(not kernels.available(), reason="no native kernels")
@pytest.mark.parametrize("name", CNNS)
def test_the_independent_reader_agrees(name: str, tmp_path: Path) -> None:
    make, shape = CNNS[name]
    path = tmp_path / "program.billhook.safetensors"
    fast = forced(pruned(make()), torch.randn(1, *shape))
    billhook.save(fast, path)
    x = torch.randn(2, *shape)
    wanted = fast(x).numpy()
    given = READER["run"](path.read_bytes(), x.numpy())
    assert given.shape == wanted.shape
    assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name.split(".")[0])
def test_the_vectors_are_what_the_independent_reader_computes(path: Path) -> None:
    stem = path.name.split(".")[0]
    x, wanted = (np.load(path.with_name(f"{stem}.{kind}.npy")) for kind in ("input", "output"))
    given = READER["run"](path.read_bytes(), x)
    assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)
