"""torch.compile of the model and of the optimizer step: compiled equals eager."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import optim

import billhook
from billhook import Cubic

from .common import assert_held, backward, copies, mlp, same

MODEL, STEP = 1, 2


def _sgd(parameters: Any) -> optim.Optimizer:
    return optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=0.01)


def _adamw(parameters: Any) -> optim.Optimizer:
    return optim.AdamW(parameters, lr=0.05, weight_decay=0.1)


def _run(
    make: Callable[[Any], optim.Optimizer],
    compiled: int,
    backend: str = "aot_eager",
    mode: str | None = None,
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    torch.compiler.reset()
    model = mlp().double()
    optimizer = make(model.parameters())
    forward: Any = torch.compile(model, backend=backend, mode=mode) if compiled & MODEL else model
    pruner = billhook.Pruner(forward, optimizer, Cubic(0.8, 1, 13, frequency=3))
    step: Any = optimizer.step
    if compiled & STEP:
        step = torch.compile(step, backend=backend)
    for index in range(15):
        optimizer.zero_grad()
        backward(forward, index)
        assert_held(pruner, model)
        step()
        assert_held(pruner, model)
    assert pruner.finalize().sparsity == pytest.approx(0.8, abs=0.01)
    return copies(model.parameters()), pruner.masks


@pytest.mark.parametrize("compiled", [MODEL, STEP, MODEL | STEP])
def test_compiled_equals_eager_bit_for_bit(compiled: int) -> None:
    weights, masks = _run(_sgd, compiled)
    expected, expected_masks = _run(_sgd, 0)
    assert same(masks.values(), expected_masks.values())
    assert same(weights, expected)


def test_mask_updates_compile_nothing_anew() -> None:
    torch._dynamo.utils.counters.clear()
    weights, masks = _run(_adamw, MODEL | STEP)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    expected, expected_masks = _run(_adamw, 0)
    assert same(masks.values(), expected_masks.values())
    # Compiled, torch's Adam takes the powers of its betas in fp32.
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])  # there are no graphs on a CPU
def test_inductor_equals_eager(mode: str | None) -> None:
    weights, masks = _run(_adamw, MODEL | STEP, "inductor", mode)
    expected, expected_masks = _run(_adamw, 0)
    assert same(masks.values(), expected_masks.values())
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
