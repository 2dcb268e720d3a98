"""torch.compile of the model and of the optimizer step: compiled equals eager."""

from typing import Any

import pytest
import torch
from torch import optim

import billhook
from billhook import Cubic

from .common import assert_held, backward, copies, mlp, same

ADAM: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}


def _run(
    backend: str | None, compile_model: bool, compile_step: bool
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    torch.compiler.reset()
    model = mlp().double()
    optimizer = optim.AdamW(model.parameters(), **ADAM)
    forward: Any = torch.compile(model, backend=backend) if compile_model else model
    pruner = billhook.Pruner(forward, optimizer, Cubic(0.8, 1, 13, frequency=3))
    step: Any = torch.compile(optimizer.step, backend=backend) if compile_step else optimizer.step
    for index in range(15):
        optimizer.zero_grad()
        backward(forward, index)
        assert_held(pruner, model)
        step()
        assert_held(pruner, model)
    assert pruner.finalize().sparsity == pytest.approx(0.8, abs=0.01)
    return copies(model.parameters()), pruner.masks


@pytest.mark.parametrize(("model", "step"), [(True, False), (False, True), (True, True)])
def test_compiled_equals_eager(model: bool, step: bool) -> None:
    weights, masks = _run("aot_eager", model, step)
    expected, expected_masks = _run(None, False, False)
    assert same(masks.values(), expected_masks.values())
    # Compiled, Adam keeps its bias correction in tensors, so only rounding may differ.
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)


def test_mask_updates_compile_nothing_anew() -> None:
    torch._dynamo.utils.counters.clear()
    _run("aot_eager", True, True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


@pytest.mark.slow
def test_inductor_equals_eager() -> None:
    weights, masks = _run("inductor", True, True)
    expected, expected_masks = _run(None, False, False)
    assert same(masks.values(), expected_masks.values())
    torch.testing.assert_close(weights, expected)
