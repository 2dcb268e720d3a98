"""Every optimizer of torch.optim: either a masked weight stays where it is, or it is held."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from billhook.fixed_points import is_fixed_point

Make = Callable[[Iterable[Tensor]], optim.Optimizer]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

#: name -> (optimizer, whether it is a fixed point)
CASES: dict[str, tuple[Make, bool]] = {
    "SGD": (lambda p: optim.SGD(p, lr=0.1), True),
    "SGD momentum": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1), True),
    "SGD nesterov": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), True),
    "SGD dampening": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5), True),
    "SGD fused": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True), False),
    "SGD foreach": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, foreach=True), True),
    "SGD maximize": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, maximize=True), False),
    "Adam": (lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1), True),
    "Adam eps 0": (lambda p: optim.Adam(p, lr=0.1, eps=0.0), False),
    "AdamW": (lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1), True),
    "AdamW amsgrad": (lambda p: optim.AdamW(p, lr=0.1, amsgrad=True), True),
    "AdamW maximize": (lambda p: optim.AdamW(p, lr=0.1, maximize=True), True),
    "AdamW fused": (lambda p: optim.AdamW(p, lr=0.1, fused=True), True),
    "AdamW foreach": (lambda p: optim.AdamW(p, lr=0.1, foreach=True), True),
    "AdamW capturable": (
        lambda p: optim.AdamW(p, lr=torch.tensor(0.1), foreach=False, differentiable=False),
        True,
    ),
    "AdamW lr 0": (lambda p: optim.AdamW(p, lr=0.0), False),
    "NAdam": (lambda p: optim.NAdam(p, lr=0.1, weight_decay=0.1), True),
    "NAdam decoupled": (
        lambda p: optim.NAdam(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
        True,
    ),
    "RAdam": (lambda p: optim.RAdam(p, lr=0.1, weight_decay=0.1), True),
    "RMSprop": (lambda p: optim.RMSprop(p, lr=0.1), True),
    "RMSprop all": (
        lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True, weight_decay=0.1),
        True,
    ),
    "Adagrad": (lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1), True),
    "Adagrad from 0.1": (lambda p: optim.Adagrad(p, initial_accumulator_value=0.1), False),
    "Adadelta": (lambda p: optim.Adadelta(p, lr=0.1), True),
    "ASGD": (lambda p: optim.ASGD(p, lr=0.1, t0=3.0), True),
    "Adafactor": (lambda p: optim.Adafactor(p, lr=0.1), True),
    "Adamax": (lambda p: optim.Adamax(p, lr=0.1), False),
    "Rprop": (lambda p: optim.Rprop(p, lr=0.1), False),
    "Muon": (lambda p: optim.Muon(p, lr=0.1), False),
}
#: Refused when a pruner attaches, or for sparse gradients alone.
NOT_HERE = {optim.LBFGS, optim.SparseAdam}


def _moved(make: Make, dtype: torch.dtype) -> tuple[int, int]:
    """Masked weights, and entries of their state, that are not +0.0 in every bit after 20 steps."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(24, 40, generator=generator).to(dtype))
    masked = torch.rand(24, 40, generator=generator) < 0.9
    masked[3], masked[:, 5] = True, True  # a row and a column as a whole
    with torch.no_grad():
        weight.masked_fill_(masked, 0.0)
    optimizer = make([weight])
    for _ in range(20):
        grad = torch.randn(24, 40, generator=generator).to(dtype)
        weight.grad = grad.masked_fill_(masked, 0.0)
        optimizer.step()
    state = [each for each in optimizer.state[weight].values() if _is_like(each, weight)]

    def strays(tensor: Tensor) -> int:
        return int(tensor.detach().view(BITS[tensor.itemsize])[masked].count_nonzero())

    return strays(weight), sum(strays(each) for each in state)


def _is_like(value: Any, weight: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == weight.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_certified_optimizers_leave_masked_weights_at_zero(name: str, dtype: torch.dtype) -> None:
    make, certified = CASES[name]
    assert is_fixed_point(make([torch.nn.Parameter(torch.ones(2, 2))])) == certified
    if certified:
        assert _moved(make, dtype) == (0, 0)


def test_the_proof_can_fail() -> None:
    assert _moved(CASES["Muon"][0], torch.float32)[0] > 0
    assert _moved(CASES["SGD maximize"][0], torch.float32)[1] > 0
    assert _moved(CASES["Adam eps 0"][0], torch.float32)[0] > 0
    assert not is_fixed_point(type("Own", (optim.AdamW,), {})([torch.nn.Parameter(torch.ones(2))]))


def test_no_optimizer_is_forgotten() -> None:
    everyone = {
        each
        for each in vars(optim).values()
        if inspect.isclass(each)
        and issubclass(each, optim.Optimizer)
        and each is not optim.Optimizer
    }
    weight = [torch.nn.Parameter(torch.ones(2, 2))]
    assert {type(make(weight)) for make, _ in CASES.values()} == everyone - NOT_HERE
