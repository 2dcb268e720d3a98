"""Optimizer state of masked weights: held at its fresh value, which is nearly always zero."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from billhook.backends.triton import is_capturing
from billhook.distributed import part
from billhook.errors import StateError
from billhook.mask import Mask, is_plain

__all__ = ["Copies", "age_of_state", "held_state", "hold_state"]

#: State of a parameter's shape whose fresh value is not zero: (class, key) -> group's setting.
_FRESH = {
    (torch.optim.Adagrad, "sum"): "initial_accumulator_value",
    (torch.optim.Rprop, "step_size"): "lr",
}


#: The number of steps after which state is known to be a copy of the weights, or not.
OBSERVATIONS = 3


class Copies:
    """What a parameter's state entries are, by their values: copies of the weights, or divisors.

    Slow weights (Lookahead), averages (schedule-free) and fp32 masters are copies: there a weight
    that returns begins with its own value, not with zero. A copy is recognised by its values: in
    its first steps its distance from the weights is at most half of the weights' norm. torch's own
    optimizers do not keep copies.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, Any], int] = {}  # steps; -1: it is not a copy
        self._checked: dict[tuple[int, Any], int] = {}  # steps in which it held no NaN

    def check_divisor(
        self, optimizer: Optimizer, key: Any, state: Tensor, mask: Mask, name: str
    ) -> None:
        """After a step, see that zero is a value from which the optimizer can go on.

        Raises:
            StateError: it made NaN of zeros, since it divides by state that begins elsewhere.
        """
        entry = id(optimizer), key
        if _is_torchs(optimizer) or self._checked.get(entry, 0) >= OBSERVATIONS:
            return
        self._checked[entry] = self._checked.get(entry, 0) + 1
        nans = state.isnan()
        alive = mask.alive()
        if nans[~alive].any() and not nans[alive].any():
            raise StateError(
                f"{type(optimizer).__name__} divides by its state {key!r}, which does not begin at "
                f"zero: it is NaN where {name!r} is masked. billhook holds the state of masked "
                "weights at zero: use an optimizer whose state begins there"
            )

    def refresh(self, optimizer: Optimizer, key: Any, state: Tensor, weight: Tensor) -> None:
        """If ``state`` is a copy, set it to the weight wherever it alone is zero."""
        if _is_torchs(optimizer):
            return
        entry = id(optimizer), key
        seen = self._seen.get(entry, 0)
        if 0 <= seen < OBSERVATIONS and weight.any():
            near = (state - weight).norm() <= 0.5 * weight.norm()
            seen = self._seen[entry] = seen + 1 if near else -1
        if seen > 0:
            state.copy_(torch.where(state == 0, weight.to(state.dtype), state))


def hold_state(
    optimizer: Optimizer, parameter: Tensor, mask: Mask, name: str, copies: Copies
) -> None:
    """Write the fresh value into every state entry of a masked weight.

    Raises:
        StateError: the optimizer keeps state of another shape that billhook does not know.
    """
    for key, value in optimizer.state.get(parameter, {}).items():
        if _is_shared(value, parameter.shape):
            continue
        if (
            not isinstance(value, Tensor)
            or value.shape != parameter.shape
            or not value.is_floating_point()
        ):
            raise StateError(
                f"{type(optimizer).__name__} keeps state {key!r}, {_show(value)}, for {name!r} of "
                f"shape {tuple(parameter.shape)}: billhook cannot tell which part belongs to a "
                "masked weight; use an optimizer whose state has its parameter's shape"
            )
        if mask.keeps_all and _is_torchs(optimizer) and not is_capturing():
            continue  # a copy of the weights is known from the beginning, others are left alone
        mine = part(value)
        if is_plain(mine) and not mask.keeps_all:
            copies.check_divisor(optimizer, key, mine, mask, name)
        if not _zero(mine, mask):
            raise StateError(
                f"{type(optimizer).__name__} keeps state {key!r} for {name!r} in a "
                f"{type(mine).__name__}, which cannot hold a zero at each masked weight: use an "
                "optimizer with plain or 8-bit state"
            )
        if is_plain(mine):
            copies.refresh(optimizer, key, mine, part(parameter).detach())
        if setting := _entry(_FRESH, optimizer, key):
            fresh = _group(optimizer, parameter)[_FRESH[setting]]
            mine.masked_fill_(~mask.alive(), fresh)


def _is_torchs(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim")


def held_state(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    """This rank's parts of the state that has an entry for each weight."""
    values = optimizer.state.get(parameter, {}).values()
    return [
        part(value)
        for value in values
        if isinstance(value, Tensor)
        and value.shape == parameter.shape
        and value.is_floating_point()
    ]


def _is_shared(value: Any, shape: torch.Size) -> bool:
    """Whether many weights share this value: step counts, flags, means over rows or columns.

    Statistics over rows and columns (Adafactor, CAME, SM3) are means or maxima over many weights:
    the zero gradients of masked ones enter them as zeros.
    """
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, (bool, int, float, str))
    if value.shape == shape:
        return False
    return value.numel() <= 1 or _is_reduced(value.shape, shape)


def _is_reduced(reduced: torch.Size, shape: torch.Size) -> bool:
    """Whether one shape is the other without some of its dimensions, left out or kept as 1.

    >>> [_is_reduced(torch.Size(s), torch.Size([20, 10])) for s in ([20], [10], [1, 10], [3])]
    [True, True, True, False]
    """
    if len(reduced) == len(shape):
        return all(r in (1, n) for r, n in zip(reduced, shape, strict=True))
    dims = iter(shape)  # a subsequence: each search goes on where the last one ended
    return len(reduced) < len(shape) and all(any(r == n for n in dims) for r in reduced)


def _zero(state: Tensor, mask: Mask) -> bool:
    """Write zeros wherever the mask is False; False if this kind of tensor cannot hold them."""
    if is_plain(state) or type(state) is Tensor:
        mask.zero_(state)
        return True
    try:
        mask.zero_(state)
        return True
    except NotImplementedError:  # quantised: values are written whole, if some must change
        values = state.dequantize()
    if values[~mask.alive()].any():
        mask.zero_(values)
        state.copy_(values)
        return not state.dequantize()[~mask.alive()].any()
    return True


def age_of_state(optimizer: Optimizer, parameter: Tensor) -> int | None:
    """The steps that the state of ``parameter`` has seen: None without state, -1 if not counted."""
    state = optimizer.state.get(parameter, {})
    step = state.get("step", -1)
    return int(step) if state else None


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
