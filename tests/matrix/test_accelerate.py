"""accelerate: its optimizer is a wrapper, and its checkpoints take the pruner."""

from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import nn, optim

import billhook
from billhook import Cubic
from billhook.errors import ConfigurationError

from .common import assert_held, batch, copies, mlp, same


def test_accelerates_optimizer_is_refused_and_the_one_inside_works(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = mlp()
    model, wrapped = accelerator.prepare(model, optim.AdamW(model.parameters(), lr=0.05))
    schedule = Cubic(0.8, 2, 8, frequency=2)
    with pytest.raises(ConfigurationError, match="AcceleratedOptimizer is not .* its .optimizer"):
        billhook.Pruner(model, wrapped, schedule)
    pruner = billhook.Pruner(model, wrapped.optimizer, schedule)
    accelerator.register_for_checkpointing(pruner)

    def run(steps: int) -> None:
        for step in range(2 * steps):
            with accelerator.accumulate(model):
                x, y = batch(step)
                accelerator.backward(nn.functional.cross_entropy(model(x), y))
                wrapped.step()
                wrapped.zero_grad()

    run(5)
    accelerator.save_state(str(tmp_path))
    saved = copies(model.parameters())
    run(2)
    accelerator.load_state(str(tmp_path))
    assert same(model.parameters(), saved)
    assert pruner.step_count == 5
    run(3)
    assert_held(pruner, model)
    assert pruner.finalize().sparsity == pytest.approx(0.8, abs=0.01)
