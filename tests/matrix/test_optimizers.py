"""One conformance suite for all optimizers: masked weights stand still, and return fresh."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import billhook
from billhook import OneShot
from billhook.errors import ConfigurationError, StateError

from .common import assert_held, backward, copies, mlp, same, train


class SignMomentum(optim.Optimizer):
    """Every moving weight takes a step of the same size, as in Lion and signSGD."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                moment = self.state[p].setdefault("moment", torch.zeros_like(p))
                p.mul_(1 - 0.1 * group["lr"])
                p.sub_(group["lr"] * torch.sign(0.9 * moment + 0.1 * p.grad))
                moment.lerp_(p.grad, 0.01)


Build = Callable[..., list[optim.Optimizer]]


def _one(kind: Any, lr: float, **settings: Any) -> Build:
    return lambda model, **flags: [kind(model.parameters(), lr, **settings, **flags)]


def _muon(model: nn.Module) -> list[optim.Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    return [optim.Muon(matrices[:2], lr=0.05), optim.AdamW([*matrices[2:], *rest], lr=0.05)]


TORCH: dict[str, Build] = {
    "sgd": _one(optim.SGD, 0.5),
    "sgd momentum": _one(optim.SGD, 0.3, momentum=0.9, weight_decay=0.01),
    "sgd nesterov": _one(optim.SGD, 0.3, momentum=0.9, nesterov=True),
    "adam": _one(optim.Adam, 0.05, weight_decay=0.01),
    "adam amsgrad": _one(optim.Adam, 0.05, amsgrad=True),
    "adamw": _one(optim.AdamW, 0.05, weight_decay=0.1),
    "rmsprop": _one(optim.RMSprop, 0.02, momentum=0.9, centered=True),
    "nadam": _one(optim.NAdam, 0.05),
    "radam": _one(optim.RAdam, 0.1),
    "adagrad": _one(optim.Adagrad, 0.2, initial_accumulator_value=0.1),
    "adadelta": _one(optim.Adadelta, 5.0),
    "adamax": _one(optim.Adamax, 0.05),
    "adafactor": _one(optim.Adafactor, 0.3),
    "asgd": _one(optim.ASGD, 0.5, t0=5.0),
    "rprop": _one(optim.Rprop, 0.01),
}
FUSED = "sgd", "sgd momentum", "sgd nesterov", "adam", "adam amsgrad", "adamw", "adagrad"
CASES: dict[str, Build] = {
    **{
        f"{name}, foreach={on}": partial(TORCH[name], foreach=on) for name in TORCH for on in (0, 1)
    },
    **{f"{name}, fused": partial(TORCH[name], fused=True) for name in FUSED},
    "sign updates": lambda model: [SignMomentum(model.parameters(), 0.03)],
    "muon and adamw": _muon,
}


def _states(
    optimizers: Iterable[optim.Optimizer], parameter: Tensor
) -> Iterator[tuple[str, Tensor, float]]:
    """Every state entry of a parameter's shape, with its fresh value."""
    for optimizer in optimizers:
        fresh = {}
        if isinstance(optimizer, optim.Adagrad):
            fresh["sum"] = 0.1
        if isinstance(optimizer, optim.Rprop):
            fresh["step_size"] = 0.01
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                yield key, value, fresh.get(key, 0.0)


@pytest.mark.parametrize("case", CASES)
def test_masked_weights_stand_still_and_return_fresh(case: str) -> None:
    model = mlp()
    optimizers = CASES[case](model)
    pruner = billhook.Pruner(model, optimizers, OneShot(0.5, 2, 32, frequency=3))
    masks, asides = pruner.masks, pruner.state_dict()["weights"]
    returned = checked = 0
    for step in range(33):
        for optimizer in optimizers:
            optimizer.zero_grad()
        backward(model, step)
        for optimizer in reversed(optimizers):
            optimizer.step()
        assert_held(pruner, model)
        for name, mask in pruner.masks.items():
            parameter = model.get_parameter(name)
            back = mask & ~masks[name]
            returned += int(back.sum())
            if back.any():
                aside = torch.zeros_like(parameter).masked_scatter(
                    ~masks[name], asides[name]["aside"][0]
                )
                assert torch.equal(parameter[back], aside[back]), "its raw value as it was"
            for key, value, fresh in _states(optimizers, parameter):
                stale = value[~mask | back]
                assert torch.equal(stale, torch.full_like(stale, fresh)), key
                checked += 1
        masks, asides = pruner.masks, pruner.state_dict()["weights"]
    assert returned > 0
    assert checked or case.startswith(("sgd,", "adafactor"))
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_state_loaded_mid_run_does_not_reach_other_weights_through_a_matrix_update() -> None:
    results = []
    for poison in (0.0, 1e3):
        model = mlp()
        optimizer, other = _muon(model)
        pruner = billhook.Pruner(model, [optimizer, other], OneShot(0.5))
        train(model, optimizer, 2)
        state = optimizer.state_dict()
        for index, name in enumerate(("0.weight", "2.weight")):
            state["state"][index]["momentum_buffer"][~pruner.masks[name]] = poison
        optimizer.load_state_dict(state)
        train(model, optimizer, 1, first=2)
        results.append(copies(model.parameters()))
    assert same(*results)


class Unknown(optim.SGD):
    """Keeps whatever state the test gives it."""

    entry: Any

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["special"] = self.entry


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (torch.zeros(3), r"torch.float32 of shape \(3,\)"),
        (torch.zeros(20, 10, dtype=torch.uint8), r"torch.uint8 of shape \(20, 10\)"),
        ([torch.zeros(20, 20), torch.zeros(10, 10)], "a list"),
        ({"left": torch.zeros(20, 20)}, "a dict"),
    ],
)
def test_state_that_cannot_be_told_apart_is_refused(entry: Any, shown: str) -> None:
    model = mlp()
    optimizer = Unknown(model.parameters(), 0.1)
    optimizer.entry = entry
    billhook.Pruner(model, optimizer, OneShot(0.5))
    with pytest.raises(StateError, match=f"Unknown keeps state 'special', {shown}, for '0.weight'"):
        train(model, optimizer, 1)


def test_lbfgs_is_refused_with_the_reason() -> None:
    model = mlp()
    with pytest.raises(ConfigurationError, match="LBFGS keeps the history of all weights"):
        billhook.Pruner(model, optim.LBFGS(model.parameters()), OneShot(0.5))


@pytest.mark.parametrize(
    ("kind", "longest"),
    [(optim.AdamW, 3.1623), (optim.SGD, 1.0), (optim.Adamax, 0.1), (optim.Adagrad, 1.0)],
)
def test_the_first_step_of_a_returning_weight_is_bounded(kind: Any, longest: float) -> None:
    """In units of lr, late in a run; SGD's in units of lr times the gradient."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = kind(model.parameters(), lr=1e-3, weight_decay=0.0)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 1, 3, frequency=2))
    gradient = 1.0 if kind is optim.SGD else 7.0
    for step in range(4):
        optimizer.zero_grad()
        (gradient * model.weight).sum().backward()
        for state in optimizer.state.values():
            if "step" in state:
                state["step"].fill_(100_000.0)  # Adam's bias corrections have faded
        if step == 2:
            with torch.no_grad():
                model.weight[pruner.masks["weight"]] = 0.1  # so that the other one returns
        before = model.weight[0, 0].item()
        optimizer.step()
    assert pruner.masks["weight"].tolist() == [[True, False]]
    assert before - model.weight[0, 0].item() == pytest.approx(longest * 1e-3, rel=1e-3)


class Divides(optim.SGD):
    """As VSGD of pytorch_optimizer: variances that start above zero, and a ratio of them."""

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure else None
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                variance = state.setdefault("variance", torch.full_like(parameter, 1e-8))
                share = variance / variance
                variance.lerp_(parameter.grad.square(), 0.1).mul_(share)
                parameter.sub_(share * parameter.grad, alpha=0.1)
        return loss


def test_state_that_does_not_begin_at_zero_and_is_divided_by_is_refused() -> None:
    model = mlp()
    optimizer = Divides(model.parameters(), lr=0.1)
    billhook.Pruner(model, optimizer, billhook.Cubic(0.8, 2, 8, frequency=2))
    with pytest.raises(StateError, match="Divides divides by its state 'variance', which does not"):
        train(model, optimizer, 8)
