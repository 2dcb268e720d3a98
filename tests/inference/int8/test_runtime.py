"""Programs in 8 bits in the runtime without torch, and in a reader in numpy: the same bits."""

import os
import random
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import billhook
from billhook.inference import isa, kernels
from billhook.inference.compiled import CompiledModel
from billhook.inference.graph import UnsupportedError
from billhook.inference.int8 import reference
from billhook.inference.int8.calibrate import calibrate
from billhook.inference.int8.inputs import captured, maps_of
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.ops import Linear, Program
from billhook.inference.int8.quantise import quantise
from billhook.inference.int8.ranges import Calibration
from billhook.inference.plan import INT8_KERNELS, Choice, Plan
from billhook.inference.report import CompileReport

from ..test_runtime import EXAMPLE, LIBRARY, bits, by_name, from_c, without_torch
from ..test_runtime import runtime as opened
from ..zoo import ZOO, small
from .strategies import elements
from .test_network import Branches, convolutions, inputs, vectors
from .test_samples import perceptrons

ROOT = Path(__file__).parents[3]
INDEPENDENT = runpy.run_path(str(ROOT / "tests/format/independent_u8_steps.py"))["run"]
ENCODINGS = ["auto", "dense", "bitmask", "blocks", "relative_index", "entropy"]
#: Those of the zoo that are one program in 8 bits; a test sees that none is missing.
NETWORKS = {"DenseNet", "EfficientNet", "MobileNetV3", "RegNet-Y"}
pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="`make runtime` has not been run"),
    pytest.mark.skipif(not kernels.available(), reason="no native kernels"),
]


def drawn(rng: random.Random, program: Program) -> dict[str, Choice]:
    """Any kernel that may run each layer."""
    choices = {}
    for _, op in program.layers():
        depthwise = not isinstance(op, Linear) and op.depthwise
        names = [*INT8_KERNELS, *["depthwise"] * (6 * depthwise)]
        choices[op.name] = Choice(rng.choice(names), rng.randint(1, 16))
    return choices


def saved(program: Program, path: Path, rng: random.Random) -> Int8Network:
    """The network by any kernels, in a file of any coding."""
    choices, own = drawn(rng, program), rng.choice(isa.supported("int8"))
    network = Int8Network(program, choices, own)
    plan = Plan("network", own, choices, "int8")
    compiled = CompiledModel(network, plan, CompileReport.of(plan, ""), {})
    billhook.save(compiled, path, encoding=rng.choice(ENCODINGS), gzip=False)
    return network


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_random_program_gives_the_same_bits(tmp_path: Path, data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from(["convolution", "depthwise", "vector", "rows", "elements"]))
    path = tmp_path / "program"
    if kind == "rows":
        program = data.draw(perceptrons())
        x = inputs(np.random.default_rng(0), data.draw(st.integers(1, 300)), program.takes)
    else:
        made = {"vector": vectors, "elements": elements}
        program, x = data.draw(made[kind]() if kind in made else convolutions(kind == "depthwise"))
    network = saved(program, path, rng)
    wanted = network(torch.from_numpy(x)).numpy()
    fast = opened()["load"](path, threads=rng.choice([1, 2]))
    assert bits({"y": fast(x)}) == bits({"y": wanted})
    assert bits({"y": INDEPENDENT(path.read_bytes(), x)}) == bits({"y": wanted})
    memory = opened()["measure"](path)
    assert memory["weights"] >= network.nbytes
    assert memory["session"] >= network.lowered.size


def quantised(model: nn.Module, x: Any) -> Program:
    """In 8 bits, calibrated on the example."""
    if len(x) != 1 or not torch.is_tensor(x[0]) or x[0].dtype != torch.float32:
        raise UnsupportedError("not one input of fp32")
    with torch.no_grad():
        graph, takes = captured(model, x[0])
        ranges = calibrate(graph.ops, [maps_of(x[0], takes)], Calibration([]))
        return quantise(graph, ranges, takes)


@pytest.mark.parametrize("name", ["branches", *ZOO])
def test_a_model_of_the_zoo_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    rng, path = random.Random(name), tmp_path / "program.billhook.safetensors"
    torch.manual_seed(0)
    model, x = (
        (Branches().eval(), (torch.randn(1, 3, 21, 19),)) if name == "branches" else small(name)
    )
    try:
        program = quantised(model, x)
    except UnsupportedError:
        assert name not in NETWORKS
        return
    assert name in (*NETWORKS, "branches")
    network = saved(program, path, rng)
    samples = torch.cat([x[0], x[0].flip(0) * 0.7])
    wanted = {"y0": network(samples).numpy()}
    threads = rng.choice([1, 2])
    fast = opened()["load"](path, threads=threads)
    named = {next(iter(fast.inputs)): samples.numpy()}
    assert bits(by_name(fast, fast(**named))) == bits(wanted)
    assert bits({"y0": INDEPENDENT(path.read_bytes(), samples.numpy())}) == bits(wanted)
    assert EXAMPLE.exists()
    assert bits(from_c(path, fast, named, threads)) == bits(wanted)
    assert bits(without_torch(path, named)) == bits(wanted)
    assert bits({"y0": billhook.load_compiled(path)(samples).numpy()}) == bits(wanted)


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = quantised(Branches().eval(), (torch.randn(1, 3, 21, 19),))
    saved(program, tmp_path / "program", random.Random(0))
    own = opened()
    fast = own["load"](tmp_path / "program")
    x = np.zeros((2, 3, 21, 19), np.float32)
    x[1, 2, 20, 18] = np.inf
    with pytest.raises(own["ProgramError"], match="NaN or infinite"):
        fast(x)
    assert np.isfinite(fast(np.nan_to_num(x))).all()


def test_files_of_version_1_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from billhook.inference.int8 import program as programs

    torch.manual_seed(0)
    network = quantised(Branches().eval(), (torch.randn(1, 3, 21, 19),))
    monkeypatch.setattr(programs, "CODED", 1)
    monkeypatch.setattr(programs, "ports", lambda _: {})
    monkeypatch.setattr(programs, "describe", lambda *_: {})
    made = saved(network, tmp_path / "program", random.Random(0))
    own = opened()
    with pytest.raises(own["ProgramError"], match=r"load_compiled and save it again"):
        own["load"](tmp_path / "program")
    x = torch.randn(2, 3, 21, 19)
    assert torch.equal(billhook.load_compiled(tmp_path / "program")(x), made(x))
    assert np.isfinite(reference.evaluate(network, x[0].numpy())).all()
    assert os.environ["BILLHOOK_RUNTIME_LIBRARY"]
