"""Weights that are not row-major are pruned as those that are."""

import copy

import pytest
import torch
from torch import nn

import billhook


@pytest.mark.parametrize("regrow", [True, False])
def test_a_channels_last_model_gets_the_same_masks(regrow: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 10, 3), nn.Flatten(), nn.Linear(160, 9))
    last = copy.deepcopy(plain)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    models = (plain, last)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in models]
    schedule = billhook.Cubic(0.8, 1, 9, frequency=2)
    pruners = [
        billhook.Pruner(model, optimizer, schedule, regrow=regrow)
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    for step in range(10):
        generator = torch.Generator().manual_seed(step)
        for one, other in zip(plain.parameters(), last.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = torch.empty_like(other).copy_(one.grad)
        for optimizer in optimizers:
            optimizer.step()
        for name, mask in pruners[0].masks.items():
            assert torch.equal(mask, pruners[1].masks[name])
        for one, other in zip(plain.parameters(), last.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert pruners[0].finalize().nonzero == pruners[1].finalize().nonzero
