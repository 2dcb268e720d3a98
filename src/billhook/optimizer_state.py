"""Optimizer state of masked weights: held at its fresh value, which is nearly always zero."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from billhook.distributed import part
from billhook.errors import ConfigurationError, StateError
from billhook.mask import Mask

__all__ = ["check_optimizer", "hold_state"]

#: State of a parameter's shape whose fresh value is not zero: (class, key) -> group's setting.
_FRESH = {
    (torch.optim.Adagrad, "sum"): "initial_accumulator_value",
    (torch.optim.Rprop, "step_size"): "lr",
}

#: State of other shapes, known to be right as it is. Adafactor's row and column statistics are
#: means over many weights; the zero gradients of masked ones enter them as zeros.
_SHARED = {(torch.optim.Adafactor, "row_var"), (torch.optim.Adafactor, "col_var")}


def check_optimizer(optimizer: Any) -> None:
    """Refuse what cannot be pruned with.

    Raises:
        ConfigurationError: not a torch optimizer, or one whose state mixes all weights.
    """
    inner = getattr(optimizer, "optimizer", None)
    if not isinstance(optimizer, Optimizer) or isinstance(inner, Optimizer):
        raise ConfigurationError(
            f"{type(optimizer).__name__} is not the torch.optim.Optimizer that takes the steps: "
            "pass that one (of a wrapper, such as accelerate's, usually its .optimizer)"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigurationError(
            "LBFGS keeps the history of all weights in flat vectors and moves masked weights "
            "through its curvature estimate: use a first-order optimizer while masks are held"
        )


def hold_state(optimizer: Optimizer, parameter: Tensor, mask: Mask, name: str) -> None:
    """Write the fresh value into every state entry of a masked weight.

    Raises:
        StateError: the optimizer keeps state of another shape that billhook does not know.
    """
    for key, value in optimizer.state.get(parameter, {}).items():
        if _is_shared(value):
            continue
        if (
            not isinstance(value, Tensor)
            or value.shape != parameter.shape
            or not value.is_floating_point()
        ):
            if _entry(_SHARED, optimizer, key):
                continue
            raise StateError(
                f"{type(optimizer).__name__} keeps state {key!r}, {_show(value)}, for {name!r} of "
                f"shape {tuple(parameter.shape)}: billhook cannot tell which part belongs to a "
                "masked weight; use an optimizer whose state has its parameter's shape"
            )
        mine = part(value)
        mask.zero_(mine)
        if setting := _entry(_FRESH, optimizer, key):
            fresh = _group(optimizer, parameter)[_FRESH[setting]]
            mine.masked_fill_(~mask.keep(), fresh)


def _is_shared(value: Any) -> bool:
    """Whether all weights of a parameter have this in common: step counts, flags, None."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return value is None or isinstance(value, (bool, int, float, str))


def _show(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)}"


def _entry(table: Any, optimizer: Optimizer, key: object) -> tuple[type[Optimizer], str] | None:
    return next((e for e in table if isinstance(optimizer, e[0]) and e[1] == key), None)


def _group(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    return next(
        group for group in optimizer.param_groups if any(p is parameter for p in group["params"])
    )
