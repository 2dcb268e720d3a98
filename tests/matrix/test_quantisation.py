"""Pruned first, then trained with fake quantisation: every masked weight is exactly code 0."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import QConfig, convert, prepare_qat
from torch.ao.quantization.fake_quantize import FakeQuantize
from torch.ao.quantization.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)

import billhook

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.ao, which warns of its own future

PER_TENSOR = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-127,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_tensor_symmetric,
)
PER_CHANNEL = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-127,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
)
ACTIVATIONS = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255
)


@pytest.mark.parametrize("weights", [PER_TENSOR, PER_CHANNEL], ids=["tensor", "channel"])
def test_masked_weights_stay_zero_through_quantisation_aware_training(weights: type) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = billhook.Pruner(model, optimizer, billhook.Cubic(0.75, 0, 10, frequency=5))
    wrapped = torch.ao.quantization.QuantWrapper(model)
    for step in range(20):
        if step == 10:
            pruner.finalize(keep_masks=True)
            wrapped.qconfig = QConfig(activation=ACTIVATIONS, weight=weights)  # type: ignore[assignment]
            wrapped = prepare_qat(wrapped.train(), inplace=True)
        optimizer.zero_grad()
        wrapped(torch.randn(8, 8)).square().mean().backward()
        optimizer.step()
    masks = pruner.masks
    pruner.detach()
    quantised = convert(wrapped.eval(), inplace=False)
    for name, mask in masks.items():
        layer = quantised.module.get_submodule(name.removesuffix(".weight"))
        codes = layer.weight().int_repr()
        assert mask.sum() == mask.numel() // 4
        assert not codes[~mask].any()
        assert codes[mask].any()
