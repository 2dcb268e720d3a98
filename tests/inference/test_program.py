"""Compiled programs in files: the same results bit for bit, and no dense weights on the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import FormatError
from billhook.inference import kernels
from billhook.inference.compiled import NetworkModule
from billhook.inference.packing import SparseWeight

from .test_compile import CNNS, forced, pruned

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


@pytest.mark.parametrize("name", CNNS)
def test_a_saved_program_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    make, shape = CNNS[name]
    fast = forced(pruned(make()), torch.randn(1, *shape))
    billhook.save(fast, tmp_path / "program.billhook.safetensors")
    again = billhook.load_compiled(tmp_path / "program.billhook.safetensors")
    x = torch.randn(2, *shape)
    assert torch.equal(again(x), fast(x))
    assert again.plan == fast.plan
    assert isinstance(again.program, NetworkModule)
    ops = again.program.network.ops
    assert all(isinstance(op.weight, SparseWeight) for op in ops if hasattr(op, "weight"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux does")
def test_starting_takes_little_more_memory_than_the_program(tmp_path: Path) -> None:
    layers = [nn.Conv2d(512, 512, kernel) for kernel in (3, 1, 3, 1, 3)]
    fast = forced(pruned(nn.Sequential(*layers)), torch.randn(1, 512, 7, 7))
    path = tmp_path / "program.billhook.safetensors"
    billhook.save(fast, path)
    script = Path(__file__).parents[2] / "benchmarks" / "start.py"
    output = subprocess.run(
        [sys.executable, script, path], check=True, capture_output=True, text=True
    ).stdout
    found = json.loads(output)
    assert found["packed"] > 5
    assert found["peak"] <= found["limit"], found


def test_a_file_of_weights_is_no_program(tmp_path: Path) -> None:
    billhook.save({"weight": torch.eye(8)}, tmp_path / "weights.billhook.safetensors")
    with pytest.raises(FormatError, match="no compiled program"):
        billhook.load_compiled(tmp_path / "weights.billhook.safetensors")


@pytest.mark.parametrize(
    ("part", "value"),
    [("column", 10_000), ("row_ptr", 10_000), ("row_ptr", -1)],
)
def test_nonzeros_that_point_outside_are_refused(part: str, value: int, tmp_path: Path) -> None:
    make, shape = CNNS["maps"]
    tensors = dict(forced(pruned(make(), 0.5), torch.randn(1, *shape)).state_dict())
    tensors[f"0.{part}"] = tensors[f"0.{part}"].clone()
    tensors[f"0.{part}"][1] = value
    billhook.save(tensors, tmp_path / "bad.billhook.safetensors")
    with pytest.raises(FormatError, match="do not fit its shape"):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors")
