"""Ranges that torch.ao's quantisation-aware training has observed."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    DeQuantStub,
    QuantStub,
    fuse_modules_qat,
    get_default_qat_qconfig,
    get_default_qat_qconfig_mapping,
    prepare_qat,
)
from torch.ao.quantization.quantize_fx import prepare_qat_fx

import billhook
from billhook.inference import kernels
from billhook.inference.int8 import compiler
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.observers import observers_of

pytestmark = [
    pytest.mark.skipif(not kernels.available(), reason="no native kernels"),
    pytest.mark.filterwarnings("ignore"),  # of torch.ao, which warns of its own future
]
SHAPE = (3, 9, 9)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


class Stubbed(nn.Module):
    """As torch.ao's eager mode wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.layers, self.dequant = QuantStub(), network(), DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.dequant(self.layers(self.quant(x)))
        return y


def by_graph() -> nn.Module:
    mapping = get_default_qat_qconfig_mapping("qnnpack")
    return prepare_qat_fx(network().train(), mapping, (torch.randn(1, *SHAPE),))


def by_module() -> nn.Module:
    model = Stubbed().train()
    model.qconfig = get_default_qat_qconfig("qnnpack")
    fused = [["layers.0", "layers.1", "layers.2"], ["layers.3", "layers.4"]]
    prepared: nn.Module = prepare_qat(fuse_modules_qat(model, fused))
    return prepared


@pytest.mark.parametrize("prepare", [by_graph, by_module])
def test_observed_ranges_are_those_of_the_program(
    prepare: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "race", lambda calls: {"dense": 2.0, "compiled": 1.0})
    torch.manual_seed(0)
    model = prepare()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        model(torch.randn(4, *SHAPE)).square().mean().backward()
        optimizer.step()
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, *SHAPE)
    tiny = [0.01 * torch.randn(4, *SHAPE)]  # what these would give are other ranges
    fast = billhook.compile(
        model, x, precision="int8", calibration=billhook.Calibration(tiny, bound=1e9)
    )
    assert isinstance(fast.program, Int8Network)
    observers: dict[str, torch.nn.Module] = observers_of(model)
    steps = {float(each.scale) for each in observers.values()}  # type: ignore[arg-type]
    program = fast.program.program
    used = [program.input_range, *(op.range for op in program.ops if op.range is not None)]
    found = [any(abs(each.step / step - 1) < 1e-6 for step in steps) for each in used]
    assert all(found[:2])
    assert sum(found) >= 3
    assert f"of {len(observers)} observed ranges are used" in str(fast.report())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    wanted = model(x)
    assert float((fast(x) - wanted).norm() / wanted.norm()) < 0.1
