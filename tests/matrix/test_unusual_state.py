"""Optimizers that keep unusual state: it is held at zero, left to the optimizer, or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import billhook
from billhook import Cubic, OneShot
from billhook.errors import StateError

from .common import assert_held, mlp, train

SCHEDULE = Cubic(0.8, 2, 10, frequency=2)


class Quantised(Tensor):
    """State as torchao keeps it: another tensor's bytes, without an in-place operation but copy."""

    held: Tensor
    least: float

    @staticmethod
    def __new__(cls, values: Tensor, least: float) -> "Quantised":
        state = Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)
        state.held, state.least = values.to(torch.float16), least
        return state

    def dequantize(self) -> Tensor:
        return self.held.float()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.copy_.default:
            args[0].held.copy_(args[1].float().clamp(min=args[0].least))
            return args[0]
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(str(func))


class EightBit(optim.SGD):
    least = -1e9

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            state = self.state[p].setdefault("m", Quantised(torch.zeros_like(p), self.least))
            state.copy_(0.9 * state.dequantize() + p.grad)


class FourBit(EightBit):
    least = 0.01  # as torchao's 4-bit second moment: its smallest code is no zero


def test_state_in_a_wrapper_tensor_is_held_or_refused() -> None:
    model = mlp()
    optimizer = EightBit(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, SCHEDULE)
    for step in range(10):
        train(model, optimizer, 1, first=step)
        for name, mask in pruner.masks.items():
            state = optimizer.state[model.get_parameter(name)]["m"].dequantize()
            assert not state[~mask].any()
            assert state[mask].any()
    model = mlp()
    optimizer = FourBit(model.parameters(), lr=0.1)
    billhook.Pruner(model, optimizer, OneShot(0.5))
    with pytest.raises(StateError, match="'m' for '0.weight' in a Quantised, which cannot hold a"):
        train(model, optimizer, 1)


class Factored(optim.SGD):
    """Statistics of rows, columns and whole tensors, as HF's Adafactor, CAME, SM3 and QHAdam."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            state["row"], state["scale"], state["none"] = p.sum(-1), torch.ones(1), torch.empty(0)
            state["column"] = p.sum(0, keepdim=True)


def test_statistics_of_rows_columns_and_tensors_are_left_to_the_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    optimizer = Factored(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    for _ in range(2):
        model(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()
    assert_held(pruner, model)


class Averaging(optim.Optimizer):
    """Keeps a copy of the weights in its state, as schedule-free and lookahead optimizers do."""

    def __init__(self, params: Any, masters: torch.dtype) -> None:
        super().__init__(params, {})
        self.masters = masters

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state["z"], state["m"] = p.to(self.masters, copy=True), torch.zeros_like(p)
            state["m"].lerp_(p.grad, 0.1)
            state["z"].sub_(state["m"].to(self.masters), alpha=0.1)
            p.copy_(state["z"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_of_the_weights_in_state_begin_at_the_value_a_weight_returns_with(
    dtype: torch.dtype,
) -> None:
    """Else the first step after its return would take the weight back to zero."""
    model = mlp().to(dtype)
    optimizer = Averaging(model.parameters(), torch.float32)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 2, 32, frequency=3))
    masks, asides = pruner.masks, pruner.state_dict()["weights"]
    returned = 0
    for step in range(33):
        train(model, optimizer, 1, first=step)
        assert_held(pruner, model)
        for name, mask in pruner.masks.items():
            parameter, back = model.get_parameter(name), mask & ~masks[name]
            state = optimizer.state[parameter]
            assert not state["z"][~mask].any()
            assert not state["m"][~mask | back].any()
            if back.any():
                aside = torch.zeros_like(parameter)
                aside.masked_scatter_(~masks[name], asides[name]["aside"][0])
                assert torch.equal(parameter[back], aside[back])
                assert torch.equal(state["z"][back], aside[back].float())
                returned += int(back.sum())
        masks, asides = pruner.masks, pruner.state_dict()["weights"]
    assert returned > 0
