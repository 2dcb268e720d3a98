"""Half precision weights, autocast, gradient scalers and the steps they skip."""

from typing import Any

import pytest
import torch
from torch import nn, optim

import billhook
from billhook import Cubic, OneShot

from ..claims.naive import smallest_first
from .common import assert_held, backward, batch, copies, mlp, same, train

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_ranked_in_fp32_with_their_many_ties(dtype: torch.dtype) -> None:
    model, twin = mlp().to(dtype), mlp().to(dtype)
    optimizer = optim.AdamW(model.parameters(), lr=0.02, eps=1e-4)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.7, 5))
    train(model, optimizer, 5)
    train(twin, optim.AdamW(twin.parameters(), lr=0.02, eps=1e-4), 5)
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, smallest_first(twin.get_parameter(name), 0.7))
    train(model, optimizer, 5, first=5)
    assert_held(pruner, model)


def test_another_dtype_in_mid_run_is_adopted_with_the_values_aside() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 16, frequency=2))
    train(model, optimizer, 4)
    for step, dtype in enumerate([torch.float64, torch.bfloat16, torch.float32], start=2):
        model.to(dtype)
        optimizer.zero_grad()
        for taken in range(2 * step, 2 * step + 2):
            backward(model, taken)
            optimizer.step()
            optimizer.zero_grad()
            assert_held(pruner, model)
        assert pruner.state_dict()["weights"]["0.weight"]["aside"][0].dtype is dtype


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["foreach", "fused"])
@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
def test_a_step_that_a_scaler_skips_does_not_count(kind: Any, way: str, device: str) -> None:
    model = mlp().to(device)
    optimizer = kind(model.parameters(), lr=0.05, **{way: True})
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 0, 6, frequency=2))
    scaler = torch.amp.GradScaler(device, init_scale=256.0)
    skipped = {1, 2, 6}
    for step in range(9):
        optimizer.zero_grad()
        x, y = (tensor.to(device) for tensor in batch(step))
        with torch.autocast(device, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        if step in skipped:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        if step % 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = copies(model.parameters())
        scaler.step(optimizer)
        scaler.update()
        assert same(before, model.parameters()) is (step in skipped)
        assert pruner.step_count == step + 1 - len([s for s in skipped if s <= step])
        if step not in skipped:
            assert_held(pruner, model)
    assert pruner.finalize().sparsity == pytest.approx(0.8)


def test_a_fused_step_under_a_scaler_equals_the_plain_one() -> None:
    results = []
    for settings in ({"fused": True}, {"foreach": False}):
        model = mlp().double()
        optimizer = optim.AdamW(model.parameters(), lr=0.05, **settings)  # type: ignore[arg-type]
        pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 10, frequency=1))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(10):
            optimizer.zero_grad()
            x, y = batch(step)
            loss = nn.functional.cross_entropy(model(x.double()), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append((copies(model.parameters()), pruner.masks))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert same(results[0][1].values(), results[1][1].values())
