"""Networks in 8 bits whose samples are the pixels of maps, and those on maps of one row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import billhook
from billhook.errors import ConfigurationError
from billhook.inference import isa, kernels
from billhook.inference.int8 import compiler, reference
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.ops import INPUT, PIXELS, Add, Concat, Conv, Linear, Op, Program
from billhook.inference.plan import INT8_KERNELS, Choice

from ..test_linear_kernels import torch_threads
from .strategies import layer, ranges

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
SETS = isa.supported("int8") if kernels.available() else ()


@pytest.fixture(autouse=True)
def _compiled_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "race", lambda calls: {"dense": 2.0, "compiled": 1.0})


@st.composite
def perceptrons(draw: st.DrawFn) -> Program:
    """Two layers and what may lie between them; the result is fp32 or bytes."""
    columns, hidden, rows = (draw(st.integers(1, 70)) for _ in range(3))
    first = Conv(
        "first",
        (INPUT,),
        (hidden, 1, PIXELS),
        draw(ranges()),
        **draw(layer((hidden, columns, 1, 1))),
    )
    ops: list[Op] = [first]
    if draw(st.booleans()):
        ops.append(Add("range", (0,), first.shape, draw(ranges())))
    if draw(st.booleans()):
        own = ops[-1].range
        ops.append(Concat("twice", (len(ops) - 1,) * 2, (2 * hidden, 1, PIXELS), own))
    width, reads = ops[-1].shape[0], (len(ops) - 1,)
    if draw(st.booleans()):
        made = layer((rows, width))
        relu = draw(st.booleans())
        last = Linear("last", reads, (rows, 1, PIXELS), None, **draw(made), relu=relu)
        ops.append(last)
    rows = ops[-1].shape[0]
    return Program((columns, 1, PIXELS), (rows,), draw(ranges()), tuple(ops), (columns,))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_equal_the_reference(data: st.DataObject) -> None:
    program = data.draw(perceptrons())
    samples = data.draw(st.sampled_from([1, 7, 8, 16, 100, PIXELS, PIXELS + 1, 2 * PIXELS, 300]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = (rng.standard_normal((samples, *program.takes)) * 3).astype(np.float32)
    wanted = reference.evaluate(program, x.T[:, None])[:, 0].T
    lines = data.draw(st.integers(1, 16))
    choices = {
        op.name: Choice(data.draw(st.sampled_from(INT8_KERNELS)), lines)
        for _, op in program.layers()
    }
    for name in SETS:
        network = Int8Network(program, choices, name)
        for threads in (1, 2) if name == SETS[0] else (1,):
            with torch_threads(threads):
                given = network(torch.from_numpy(x)).numpy()
            np.testing.assert_array_equal(given, wanted, err_msg=f"{name}, {threads} threads")


def compiled(model: nn.Module, batches: list[torch.Tensor]) -> billhook.CompiledModel:
    return billhook.compile(model.eval(), batches[0], precision="int8", calibration=batches)


def near(given: torch.Tensor, wanted: torch.Tensor) -> None:
    assert given.shape == wanted.shape
    assert float((given - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("shape", [(40, 32), (3, 20, 32)])
def test_a_perceptron_is_one_program_of_any_number_of_rows(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 70), nn.ReLU(), nn.Linear(70, 9))
    batches = [torch.randn(*shape) for _ in range(5)]
    fast = compiled(model, batches)
    assert fast.plan.mode == "network"
    near(fast(batches[0]), model(batches[0]).detach())
    x = torch.randn(2, 150, 32)
    near(fast(x), model(x).detach())
    assert torch.equal(fast(x)[1, 3], fast(x[1, 3][None])[0])
    assert fast(torch.zeros(0, 32)).shape == (0, 9)
    with pytest.raises(ConfigurationError, match=r"compiled for \(\.\.\., 32\)"):
        fast(torch.zeros(3, 31))
    assert max(fast.saturated(x).values()) < 0.01
    assert fast.saturated(100 * x)["the input"] > 0.9
    x[1, 149, 31] = float("nan")
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        fast(x)
    billhook.save(fast, tmp_path / "rows.billhook.safetensors")
    again = billhook.load_compiled(tmp_path / "rows.billhook.safetensors")
    assert torch.equal(again(batches[1]), fast(batches[1]))


class Mixes(nn.Module):
    """Works on rows together: not on each alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x) - x.mean(-2, keepdim=True)
        return y


@pytest.mark.parametrize("model", [Mixes(), nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))])
def test_what_does_not_work_on_each_row_alone_is_replaced_layer_by_layer(model: nn.Module) -> None:
    batches: Any = [torch.randn(2, 20, 8) for _ in range(2)]
    fast = compiled(model, batches)
    assert fast.plan.mode == "modules"
    with pytest.raises(ConfigurationError, match="has no calibrated ranges"):
        fast.saturated(batches[0])
    near(fast(batches[0]), model(batches[0]).detach())


def test_convolutions_of_one_dimension_are_one_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(5, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, padding=2, dilation=2, groups=4),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(16, 7, 1),
    ).eval()
    batches = [torch.randn(2, 5, 61) for _ in range(5)]
    fast = compiled(model, batches)
    assert fast.plan.mode == "network"
    assert isinstance(fast.program, Int8Network)
    x = batches[0]
    near(fast(x), model(x).detach())
    wanted = reference.evaluate(fast.program.program, x[1].numpy()[:, None])
    np.testing.assert_array_equal(fast(x)[1].numpy(), wanted[:, 0])
    billhook.save(fast, tmp_path / "line.billhook.safetensors")
    again = billhook.load_compiled(tmp_path / "line.billhook.safetensors")
    assert torch.equal(again(x), fast(x))
    with pytest.raises(ConfigurationError, match=r"compiled for \(N, 5, 61\)"):
        fast(torch.zeros(1, 5, 60))
