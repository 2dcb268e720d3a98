"""Compiled programs in files: the same results bit for bit, and no dense weights on the way."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import CompileError, FormatError
from billhook.inference import kernels
from billhook.inference.network.network import Network
from billhook.inference.program_file import sparse_tensors
from billhook.inference.weights.csr import SparseWeight

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
    assert isinstance(again.program, Network)
    ops = again.program.ops
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


def version_1(program: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as billhook 0.2 wrote them."""
    tensors = dict(program)
    text = json.loads(bytes(tensors.pop("program").numpy()))
    text["version"] = 1
    text["shape"] = text["inputs"][0]["shape"]
    for name in ("run", "inputs", "outputs", "structure"):
        del text[name]
    for index, op in enumerate(text["ops"]):
        if text["plan"]["layers"].get(op["name"], {}).get("kernel", "dense") != "dense":
            tensors |= sparse_tensors(str(index), tensors.pop(f"{index}.weight"))
    raw = bytearray(json.dumps(text).encode())
    return {**tensors, "program": torch.frombuffer(raw, dtype=torch.uint8)}


@pytest.mark.parametrize("name", CNNS)
def test_programs_of_version_1_are_read(name: str, tmp_path: Path) -> None:
    make, shape = CNNS[name]
    fast = forced(pruned(make()), torch.randn(1, *shape))
    billhook.save(version_1(fast.state_dict()), tmp_path / "old.billhook.safetensors")
    again = billhook.load_compiled(tmp_path / "old.billhook.safetensors")
    x = torch.randn(2, *shape)
    assert torch.equal(again(x), fast(x))
    billhook.save(again, tmp_path / "new.billhook.safetensors")
    assert torch.equal(billhook.load_compiled(tmp_path / "new.billhook.safetensors")(x), fast(x))


@pytest.mark.parametrize("version", [0, 3, True, "2", None])
def test_programs_of_another_version_are_refused(version: object, tmp_path: Path) -> None:
    changed(tmp_path / "other.billhook.safetensors", lambda text: text.update(version=version))
    with pytest.raises(FormatError, match="reads 1 and 2"):
        billhook.load_compiled(tmp_path / "other.billhook.safetensors")


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "relative_index", "entropy"])
def test_weights_are_read_from_every_coding(encoding: str, tmp_path: Path) -> None:
    make, shape = CNNS["maps"]
    fast = forced(pruned(make()), torch.randn(1, *shape))
    billhook.save(fast, tmp_path / "program.billhook.safetensors", encoding=encoding)
    x = torch.randn(2, *shape)
    again = billhook.load_compiled(tmp_path / "program.billhook.safetensors")
    assert torch.equal(again(x), fast(x))


@pytest.mark.parametrize(
    ("part", "value"),
    [("column", 10_000), ("row_ptr", 10_000), ("row_ptr", -1)],
)
def test_nonzeros_that_point_outside_are_refused(part: str, value: int, tmp_path: Path) -> None:
    make, shape = CNNS["maps"]
    tensors = version_1(forced(pruned(make(), 0.5), torch.randn(1, *shape)).state_dict())
    tensors[f"0.{part}"] = tensors[f"0.{part}"].clone()
    tensors[f"0.{part}"][1] = value
    billhook.save(tensors, tmp_path / "bad.billhook.safetensors")
    with pytest.raises(FormatError, match="do not fit its shape"):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors")


def changed(path: Path, change: Callable[[dict[str, Any]], object], name: str = "residual") -> None:
    """A program's file with other operations or another plan."""
    make, shape = CNNS[name]
    tensors = dict(forced(pruned(make(), 0.5), torch.randn(1, *shape)).state_dict())
    text = json.loads(bytes(tensors["program"].numpy()))
    change(text)
    tensors["program"] = torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)
    billhook.save(tensors, path)


def of(kind: str, /, **values: Any) -> Callable[[dict[str, Any]], object]:
    """Changes the first operation of a kind."""

    def change(text: dict[str, Any]) -> None:
        ops = text["ops"]
        next(op for op in ops if kind in (op["type"], op.get("kind"))).update(values)

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "input": lambda text: text["inputs"][0].update(shape=[3, 30, 24]),
    "input of nothing": lambda text: text["inputs"][0].update(shape=[3, 0, 24]),
    "input in words": lambda text: text["inputs"][0].update(shape=["3", "24", "24"]),
    "huge input": lambda text: text["inputs"][0].update(shape=[3, 10**30, 24]),
    "no operations": lambda text: text.update(ops=[]),
    "reads the future": of("Conv", inputs=[5]),
    "reads nothing": of("Conv", inputs=[]),
    "larger result": of("Conv", shape=[8, 99, 99]),
    "negative padding": of("Conv", padding=[-1, 0, 0, 0]),
    "more padding": of("Conv", padding=[0, 0, 9, 9]),
    "no stride": of("Conv", stride=[0, 0]),
    "stride in parts": of("Conv", stride=[1.5, 1]),
    "short stride": of("Conv", stride=[2]),
    "groups": of("Conv", groups=3),
    "weight's shape": of("Conv", weight_shape=[8, 3, 3]),
    "weight's rows": of("Conv", weight_shape=[9, 3, 3, 3]),
    "weight's kernel": of("Conv", weight_shape=[8, 3, 5, 3]),
    "activation": of("Conv", activation="warp"),
    "unknown setting": of("Conv", colour="red"),
    "unknown kind": of("Conv", type="warp"),
    "wide linear": of("Linear", weight_shape=[7, 31]),
    "pool beyond": of("Pool", stride=[9, 9]),
    "pool of nothing": of("Pool", kernel=[0, 0]),
    "pool's padding": of("Pool", padding=[7, 7]),
    "pool's channels": of("Pool", shape=[9, 11, 11]),
    "concatenation": of("concat", shape=[99, 11, 11]),
    "unequal sum": of("add", inputs=[0, -1]),
    "sum of one": of("add", inputs=[0]),
    "mean's shape": of("mean", shape=[99]),
    "mean over nothing": of("mean", kind="median"),
    "name twice": of("Conv", name="b"),
    "kernel of others": lambda t: t["plan"]["layers"]["c"].update(kernel="spmm_packed"),
    "fused for nothing": lambda t: t["plan"]["layers"]["b"].update(kernel="fused"),
    "sparse convolution": lambda t: t["plan"]["layers"]["b"].update(kernel="sparse"),
    "linear as convolution": lambda t: t["plan"]["layers"]["fc"].update(kernel="spmm"),
    "output of another shape": lambda t: t["outputs"][0].update(shape=[8]),
    "output of nothing": lambda t: t["outputs"][0].update(value=99),
    "output that is an input": lambda t: t["outputs"][0].update(value=-1),
    "output twice": lambda t: t["outputs"].append(t["outputs"][0]),
    "no outputs": lambda t: t.update(outputs=[], structure=[]),
    "structure of others": lambda t: t.update(structure={"y": 1}),
    "deep structure": lambda t: t.update(structure=json.loads("[" * 99 + "0" + "]" * 99)),
    "input of words": lambda t: t["inputs"][0].update(dtype="I64"),
    "input of no type": lambda t: t["inputs"][0].update(dtype="F16"),
    "batch elsewhere": lambda t: t["inputs"][0].update(axis=7),
    "no choice": lambda t: t["plan"]["layers"].pop("b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_operations_that_do_not_fit_together_are_refused(name: str, tmp_path: Path) -> None:
    changed(tmp_path / "bad.billhook.safetensors", HOSTILE[name])
    with pytest.raises(FormatError, match="cannot be read"):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors")


def test_a_program_for_more_floats_than_offsets_count_is_refused(tmp_path: Path) -> None:
    def wide(text: dict[str, Any]) -> None:
        text["inputs"][0]["shape"] = [3, 2**14, 2**14]
        text["ops"][0]["shape"] = text["outputs"][0]["shape"] = [5, 2**14, 2**14]

    changed(tmp_path / "bad.billhook.safetensors", wide, "maps")
    with pytest.raises(FormatError, match="compile for a smaller input"):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors")


def test_a_plan_whose_kernels_cannot_run_the_layers_is_an_error() -> None:
    make, shape = CNNS["residual"]
    model, x = pruned(make()), torch.randn(1, *shape)
    plan = forced(model, x).plan.to_dict()
    plan["layers"]["c"]["kernel"] = "spmm_packed"
    with pytest.raises(CompileError, match="'c' run by 'spmm_packed'"):
        billhook.compile(model, x, plan=plan)
