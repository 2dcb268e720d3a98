"""Accumulation, clipping, sparse gradients: what reaches the optimizer is what the graph says."""

import copy
from typing import Any

import pytest
import torch
from torch import nn, optim

import billhook
from billhook import Cubic, OneShot

from .common import assert_held, backward, mlp


def test_accumulated_gradients_are_masked_at_once_and_a_step_is_a_step() -> None:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 0, 8, frequency=2))
    for step in range(8):
        for micro in range(3):
            backward(model, 3 * step + micro)
            assert_held(pruner, model)
        assert pruner.step_count == step
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    assert pruner.finalize().sparsity == pytest.approx(0.8)


def test_gradients_kept_over_an_update_are_masked_by_the_new_mask() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 1))
    backward(model, 0)
    optimizer.step()
    assert_held(pruner, model)


def test_clipping_sees_the_gradients_of_the_kept_weights_only() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.8))
    dense = copy.deepcopy(model)  # has no hooks
    backward(model, 0)
    backward(dense, 0)
    unmasked = optim.SGD(dense.parameters()).param_groups[0]["params"]
    everything = nn.utils.get_total_norm([p.grad for p in unmasked])
    for name, mask in pruner.masks.items():
        grad = dense.get_parameter(name).grad
        assert grad is not None
        grad.mul_(mask)
    expected = nn.utils.get_total_norm([p.grad for p in dense.parameters() if p.grad is not None])
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert norm == expected < 0.9 * everything


@pytest.mark.parametrize("kind", [optim.SGD, optim.SparseAdam])
def test_sparse_gradients_of_an_embedding(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Embedding(12, 6, sparse=True)
    optimizer = kind(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 10, frequency=2))
    before = pruner.masks["weight"]
    changed = 0
    for step in range(12):
        optimizer.zero_grad()
        ids = torch.tensor([0, 3, 3, step % 12])  # a row twice
        (model(ids) - 1.0).square().sum().backward()
        grad = model.weight.grad
        assert grad is not None
        assert grad.is_sparse
        assert_held(pruner, model)
        optimizer.step()
        assert_held(pruner, model)
        changed += int((before ^ pruner.masks["weight"]).sum())
        before = pruner.masks["weight"]
    assert changed > 0
    assert int(model.weight.count_nonzero()) == 36
