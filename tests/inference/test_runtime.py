"""The runtime without torch, from its own library: the same bits as ``load_compiled`` gives."""

import os
import random
import runpy
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import billhook
from billhook.inference import kernels
from billhook.inference.graph import Layer, UnsupportedError, capture_graph
from billhook.inference.graph.soundness import after
from billhook.inference.isa import supported
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import bytes_of
from billhook.torch_private import leaves

from .random_networks import RandomNetwork
from .zoo import ZOO, saved

ROOT = Path(__file__).parents[2]
ENCODINGS = ["auto", "dense", "bitmask", "blocks", "relative_index", "entropy"]
BUILT = ROOT / "build/runtime"
LIBRARY = BUILT / "make/libbillhook.so"
EXAMPLE, NUMPY_ALONE = BUILT / "example", BUILT / "venv/bin/python"
SPARSE = {"kernel": "sparse", "vectors": 1}
pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="`make runtime` has not been run"),
    pytest.mark.skipif(not kernels.available(), reason="no native kernels"),
]


def runtime() -> dict[str, Any]:
    os.environ["BILLHOOK_RUNTIME_LIBRARY"] = str(LIBRARY.parent)
    return runpy.run_path(str(ROOT / "runtime/billhook_runtime/__init__.py"))


def drawn(rng: random.Random, ops: list[Any], dense: bool) -> dict[str, Choice]:
    """Any kernel that may run each layer."""
    choices: dict[str, Choice] = {}
    for index, op in reversed(list(enumerate(ops))):
        if isinstance(op, Layer):
            follower = after(ops, index)
            runs = [kernel for kernel in op.kernels_for(follower) if dense or kernel != "dense"]
            packed = isinstance(follower, Layer) and choices[follower.name].kernel == "spmm_packed"
            if "fused" in runs and not packed:
                runs.remove("fused")
            choices[op.name] = Choice(rng.choice(runs), rng.randint(1, 16))
    return choices


@pytest.mark.parametrize("seed", range(60))
def test_a_random_network_gives_the_same_bits(seed: int, tmp_path: Path) -> None:
    rng, own = random.Random(seed), runtime()
    model = RandomNetwork(seed, steps=rng.choice([4, 8, 12, 18]))
    example = torch.randn(1, *model.input_shape)
    try:
        graph, _ = capture_graph(model, (example,))
    except UnsupportedError:
        pytest.skip("not one program")
    dense = seed % 3 == 0
    choices = drawn(rng, list(graph.ops), dense)
    instructions = rng.choice(supported("fp32"))
    layers = {name: {"kernel": c.kernel, "vectors": c.vectors} for name, c in choices.items()}
    plan = {"version": 1, "mode": "network", "isa": instructions, "layers": layers}
    fast = billhook.compile(model, example, plan=plan)
    path = tmp_path / "program.billhook.safetensors"
    billhook.save(fast, path, encoding=rng.choice(ENCODINGS))
    x = 3 * torch.randn(3, *model.input_shape)
    wanted = fast(x).numpy()
    program = own["load"](path, threads=rng.choice([1, 2]))
    given = program(x.numpy())
    assert np.array_equal(given, program(x.numpy()))
    if dense:
        assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)
    else:
        assert np.array_equal(given, wanted)
    assert isinstance(fast.program, Network)
    memory = own["measure"](path)
    assert memory["session"] >= 4 * fast.program.lowering.placed.size
    packed = bytes_of(a for rows in fast.program.lowering.packed for a in rows.arrays())
    assert dense or memory["weights"] >= packed + fast.program.constants.nbytes


def bits(arrays: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(y).tobytes() for name, y in arrays.items()}


def by_name(program: Any, result: Any) -> dict[str, Any]:
    return dict(result) if len(program.outputs) > 1 else dict.fromkeys(program.outputs, result)


def from_c(path: Path, program: Any, given: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What the C example computes."""
    for name, x in given.items():
        raw = np.moveaxis(x, program.inputs[name].axis, 0)
        (path.parent / name).write_bytes(np.ascontiguousarray(raw).tobytes())
    run: list[str | Path] = [EXAMPLE, path, str(threads), path.parent]
    subprocess.run(run, check=True, capture_output=True, text=True)
    made = {}
    for name, own in program.outputs.items():
        raw = np.frombuffer((path.parent / name).read_bytes(), np.float32)
        made[name] = own.of_samples(raw.reshape(-1, *own.shape))
    return made


WITHOUT_TORCH = """
import sys, numpy, billhook_runtime
path, given, made = sys.argv[1:]
program = billhook_runtime.load(path)
y = program(**numpy.load(given))
numpy.savez(made, **(y if isinstance(y, dict) else dict.fromkeys(program.outputs, y)))
assert "torch" not in sys.modules
"""


def without_torch(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What billhook_runtime computes where numpy is all there is."""
    inputs, outputs = path.with_name("inputs.npz"), path.with_name("outputs.npz")
    np.savez(inputs, **given)
    environment = {"PYTHONPATH": str(ROOT / "runtime"), "BILLHOOK_RUNTIME_LIBRARY": str(LIBRARY)}
    command: list[str | Path] = [NUMPY_ALONE, "-c", WITHOUT_TORCH, path, inputs, outputs]
    subprocess.run(command, check=True, env=environment)
    return dict(np.load(outputs))


@pytest.mark.parametrize("name", ZOO)
def test_a_model_of_the_zoo_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    rng, own = random.Random(name), runtime()
    path = tmp_path / "program.billhook.safetensors"
    network, batches = saved(
        name, path, rng.choice(supported("fp32")), dense=False, encoding=rng.choice(ENCODINGS)
    )
    threads = rng.choice([1, 2])
    program = own["load"](path, threads=threads)
    for batch in batches:
        given = [x.numpy() for x in leaves(batch) if x is not None]
        wanted = {f"y{k}": y.numpy() for k, y in enumerate(network(*batch))}
        assert bits(by_name(program, program(*given))) == bits(wanted)
    named = dict(zip(program.inputs, given, strict=True))
    assert bits(from_c(path, program, named, threads)) == bits(wanted)
    assert bits(without_torch(path, named)) == bits(wanted)
    assert own["measure"](path)["session"] >= 4 * network.lowering.placed.size


def test_a_matrix_of_more_columns_than_two_bytes_count(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(140_000, 9)
    layer.weight.data *= torch.rand(9, 140_000) < 0.02
    model = nn.Sequential(layer, nn.ReLU()).eval()
    plan = {"version": 1, "mode": "network", "isa": "portable", "layers": {"0": SPARSE}}
    x = torch.randn(2, 140_000)
    fast, path = billhook.compile(model, x, plan=plan), tmp_path / "wide.billhook.safetensors"
    billhook.save(fast, path)
    program = runtime()["load"](path)
    assert np.array_equal(program(x.numpy()), fast(x).numpy())
    assert runtime()["measure"](path)["weights"] >= fast.nbytes


def test_module_programs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    own, plan = runtime(), {"version": 1, "mode": "modules", "isa": "portable"}
    lstm = nn.LSTM(16, 16).eval()
    fast = billhook.compile(
        lstm, torch.rand(3, 1, 16), plan={**plan, "layers": {"": {"kernel": "sparse"}}}
    )
    billhook.save(fast, tmp_path / "lstm.billhook.safetensors")
    with pytest.raises(own["ProgramError"], match="standalone=True"):
        own["load"](tmp_path / "lstm.billhook.safetensors")
