"""A second reader of programs, written from SPEC.md, computes what billhook's own does."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import billhook
from billhook.inference import kernels
from billhook.torch_private import leaves

from .test_compile import CNNS, forced, pruned
from .zoo import ZOO, saved

ROOT = Path(__file__).parents[2]
VECTORS = sorted((ROOT / "runtime/tests/vectors").glob("*.safetensors"))
READER, STEPS, U8_STEPS = (
    runpy.run_path(str(ROOT / f"tests/format/independent_{what}.py"))
    for what in ("program", "steps", "u8_steps")
)


@pytest.mark.skipif(not kernels.available(), reason="no native kernels")
@pytest.mark.parametrize("name", CNNS)
def test_the_independent_reader_agrees(name: str, tmp_path: Path) -> None:
    make, shape = CNNS[name]
    path = tmp_path / "program.billhook.safetensors"
    fast = forced(pruned(make()), torch.randn(1, *shape))
    billhook.save(fast, path)
    x = torch.randn(2, *shape)
    wanted = fast(x).numpy()
    for reader in (READER, STEPS):
        (given,) = reader["run"](path.read_bytes(), x.numpy())
        _near(given, wanted)


def _near(given: Any, wanted: Any) -> None:
    assert given.shape == wanted.shape
    assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.skipif(not kernels.available(), reason="no native kernels")
@pytest.mark.parametrize("name", ZOO)
def test_the_independent_reader_agrees_on_the_zoo(name: str, tmp_path: Path) -> None:
    path = tmp_path / "program.billhook.safetensors"
    network, batches = saved(name, path, "portable")
    batch = batches[-1]
    inputs = [x.numpy() for x in leaves(batch) if x is not None]
    for reader in (READER, STEPS):
        given = reader["run"](path.read_bytes(), *inputs)
        for y, wanted in zip(given, network(*batch), strict=True):
            _near(y, wanted.numpy())


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name.split(".")[0])
def test_the_vectors_are_what_the_independent_reader_computes(path: Path) -> None:
    file = path.read_bytes()
    text = json.loads(READER["read"](file)["program"][2])
    inputs, outputs = (
        [np.load(path.with_name(f"{path.name.split('.')[0]}.{way}.{p['name']}.npy")) for p in ports]
        for way, ports in (("in", text["inputs"]), ("out", text["outputs"]))
    )
    if text["plan"].get("precision") == "int8":
        (wanted,) = outputs
        np.testing.assert_array_equal(U8_STEPS["run"](file, *inputs), wanted)
        return
    for reader in (READER, STEPS):
        for given, wanted in zip(reader["run"](file, *inputs), outputs, strict=True):
            _near(given, wanted)
