"""Checks of the kinds of arguments; each error says what to give instead."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from billhook.errors import ConfigurationError

__all__ = ["check_arguments", "check_parts"]

#: For each argument: an example of what to give.
_EXAMPLES = {
    "schedule": "billhook.OneShot(0.9) or billhook.Cubic(0.9, begin_step=..., end_step=...)",
    "criterion": "billhook.Magnitude()",
    "granularity": "billhook.Unstructured()",
    "allocation": "billhook.Uniform() or billhook.Global()",
}


def check_arguments(
    model: object,
    optimizer: object,
    *,
    rules: object = None,
    **parts: object,
) -> None:
    """Check the type of each argument of a pruner; ``parts`` are schedule, criterion, ...

    Raises:
        ConfigurationError: one is not; the message says what to give.

    >>> check_arguments(nn.Linear(2, 2), 0.1)
    Traceback (most recent call last):
        ...
    billhook.errors.ConfigurationError: optimizer is 0.1: give the torch.optim.Optimizer that \
trains the model, or a list of them
    """
    if isinstance(model, Optimizer) and isinstance(optimizer, nn.Module):
        raise ConfigurationError(
            "model and optimizer are swapped: write Pruner(model, optimizer, schedule)"
        )
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model is {_named(model)}: give a torch.nn.Module")
    listed = isinstance(optimizer, (list, tuple))
    if not optimizer or not (listed or isinstance(optimizer, Optimizer) or _wraps(optimizer)):
        raise ConfigurationError(
            f"optimizer is {_named(optimizer)}: give the torch.optim.Optimizer that trains the "
            "model, or a list of them"
        )
    if rules is not None and not isinstance(rules, Mapping):
        raise ConfigurationError(
            f"rules is {_named(rules)}: give a dict of names or module classes to sparsities, as "
            'in {"head.*": None, "conv1": 0.5}'
        )
    check_parts(**parts)


def check_parts(**parts: object) -> None:
    """Check the type of each part of a pruner: schedule, criterion, granularity, allocation.

    Raises:
        ConfigurationError: one is not; the message says what to give.
    """
    for name, part in parts.items():
        _check_part(name, part)


def _check_part(name: str, part: Any) -> None:
    if isinstance(part, type):
        raise ConfigurationError(
            f"{name} is the class {part.__name__} itself: give an object, {part.__name__}(...)"
        )
    wrong = (bool, int, float, str, bytes, Sequence, Mapping, nn.Module, Optimizer)
    if part is None or isinstance(part, wrong):
        raise ConfigurationError(f"{name} is {_named(part)}: give one such as {_EXAMPLES[name]}")


def _named(value: object) -> str:
    """A value where it says most, else its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _wraps(thing: object) -> bool:
    """Whether this looks like a wrapper of an optimizer, about which there is more to say."""
    return hasattr(thing, "param_groups") and hasattr(thing, "step")
