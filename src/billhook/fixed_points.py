"""Optimizers that leave a masked weight at +0.0 by themselves, so that holding it is unnecessary.

With gradient, weight and state at +0.0, these compute +0.0 in every bit, in any precision; so where
gradients are masked once, a step needs no further pass over weights and state. That is proved by a
test over all of ``torch.optim`` (tests/backends/test_fixed_points.py). Others are held after each
step: Muon moves a masked weight with its neighbours, Adamax and Rprop keep state that is not zero,
SGD that maximises or is fused can leave -0.0 in its momentum, and subclasses may do anything.
"""

from typing import Any

from torch import optim
from torch.optim import Optimizer

__all__ = ["is_fixed_point"]

_CERTIFIED: frozenset[type[Optimizer]] = frozenset(
    {
        *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.RMSprop),
        *(optim.Adagrad, optim.Adadelta, optim.ASGD, optim.Adafactor),
    }
)


def is_fixed_point(optimizer: Optimizer) -> bool:
    """Whether a step with masked gradients leaves masked weights and their state at +0.0.

    Not with a learning rate of 0, which would hide that a gradient was written in between: a moved
    weight says so, and then weights and state are held.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> is_fixed_point(optim.AdamW([weight])), is_fixed_point(optim.Muon([weight]))
    (True, False)
    """
    return type(optimizer) in _CERTIFIED and all(
        _is_certified(type(optimizer), group) for group in optimizer.param_groups
    )


def _is_certified(kind: type[Optimizer], group: dict[str, Any]) -> bool:
    rate, decay = group.get("lr", 1.0), group.get("weight_decay", 0.0)
    if isinstance(rate, float | int) and rate == 0:
        return False
    if any(eps == 0 for eps in _numbers(group.get("eps", 1.0))):  # 0 / 0
        return False
    if isinstance(decay, float | int) and decay < 0:
        return False
    if kind is optim.SGD:
        return not (group["maximize"] or group["fused"])
    if kind is optim.Adagrad:
        return bool(group["initial_accumulator_value"] == 0)
    return True


def _numbers(value: Any) -> tuple[Any, ...]:
    """The numbers of a setting, which Adafactor has two of; tensors stay unread."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(each for each in values if isinstance(each, float | int))
