"""The runtime without torch, from its own library: the same bits as ``load_compiled`` gives."""

import os
import random
import runpy
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

from .random_networks import RandomNetwork

ROOT = Path(__file__).parents[2]
ENCODINGS = ["auto", "dense", "bitmask", "blocks", "relative_index", "entropy"]
LIBRARY = ROOT / "build/runtime/make/libbillhook.so"
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
    isa = rng.choice(supported("fp32"))
    layers = {name: {"kernel": c.kernel, "vectors": c.vectors} for name, c in choices.items()}
    plan = {"version": 1, "mode": "network", "isa": isa, "layers": layers}
    fast = billhook.compile(model, example, plan=plan)
    path = tmp_path / "program.billhook.safetensors"
    billhook.save(fast, path, encoding=rng.choice(ENCODINGS))
    x = 3 * torch.randn(3, *model.input_shape)
    wanted = fast(x).numpy()
    try:
        program = own["load"](path, threads=rng.choice([1, 2]))
    except own["ProgramError"] as error:
        assert "a newer one may" in str(error)  # noqa: PT017, of an operation it does not know
        pytest.skip(str(error))
    given = program(x.numpy())
    assert np.array_equal(given, program(x.numpy()))
    if dense:
        assert np.linalg.norm(given - wanted) <= 1e-5 * np.linalg.norm(wanted)
    else:
        assert np.array_equal(given, wanted)
    assert isinstance(fast.program, Network)
    memory = own["measure"](path)
    assert memory["session"] >= 4 * fast.program.lowering.placed.size
    assert dense or memory["weights"] >= fast.program.nbytes


def test_module_programs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    own, plan = runtime(), {"version": 1, "mode": "modules", "isa": "portable"}
    lstm = nn.LSTM(16, 16).eval()
    fast = billhook.compile(
        lstm, torch.rand(3, 1, 16), plan={**plan, "layers": {"": {"kernel": "sparse"}}}
    )
    billhook.save(fast, tmp_path / "lstm.billhook.safetensors")
    with pytest.raises(own["ProgramError"], match="standalone=True"):
        own["load"](tmp_path / "lstm.billhook.safetensors")
