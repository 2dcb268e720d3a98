"""Hooks on optimizers: every step is counted exactly once, whichever optimizer takes it."""

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from billhook import torch_private
from billhook.distributed import is_zero
from billhook.errors import ConfigurationError

__all__ = [
    "Listener",
    "StepCount",
    "check_optimizers",
    "is_idle",
    "parameters_of",
    "register_hooks",
    "wait_for_backward",
]

#: The code of the function that torch puts around every ``step``: it calls the hooks.
_STEP = Optimizer.profile_hook_step(lambda: None).__code__


class Listener(Protocol):
    """What :func:`register_hooks` tells a pruner."""

    def before_step(self, optimizer: Optimizer) -> None:
        """One of its optimizers begins a step."""

    def after_step(self, optimizer: Optimizer) -> None:
        """One of its optimizers, or a wrapper around one, has taken a step."""

    def before_foreign_step(self, optimizer: Optimizer) -> None:
        """An optimizer that it was not given, or a part of one, begins a step of its own."""

    def before_load(self, optimizer: Optimizer) -> None:
        """The state of one of its optimizers is about to be replaced."""


def check_optimizers(given: Any) -> list[Optimizer]:
    """The optimizers that a pruner was given, one or several.

    Raises:
        ConfigurationError: the message names what cannot be pruned with, and what to pass instead.
    """
    optimizers = list(given) if isinstance(given, Sequence) else [given]
    for optimizer in optimizers:
        _check_optimizer(optimizer)
    return list({id(each): each for each in optimizers}.values())  # each once


def _check_optimizer(optimizer: Any) -> None:
    kind = type(optimizer).__name__
    inner = next(iter(_parts(optimizer)), None)
    pass_it = (
        f"pass the inner optimizer, its .{inner[0]} ({type(inner[1]).__name__})"
        if inner
        else ("pass the inner optimizer (usually the attribute .optimizer of a wrapper)")
    )
    if type(optimizer).__module__.partition(".")[0] == "deepspeed":
        raise ConfigurationError(
            f"{kind} belongs to DeepSpeed, which keeps the weights in its own flat buffers and "
            "would overwrite the zeros: shard the model with torch.distributed.fsdp.fully_shard"
        )
    if not isinstance(optimizer, Optimizer) or hasattr(optimizer, "optimizer"):
        raise ConfigurationError(
            f"{kind} is not the torch.optim.Optimizer that takes the steps: {pass_it}"
        )
    if not _runs_hooks(optimizer):
        raise ConfigurationError(
            f"{kind} is a wrapper that never calls Optimizer.__init__, so torch does not "
            f"run its step hooks and billhook would count no step: {pass_it}"
        )
    if inner and hasattr(optimizer, "first_step"):
        raise ConfigurationError(
            f"{kind} takes its steps through {type(inner[1]).__name__}, and first_step() and "
            f"second_step() are not steps that a hook sees: {pass_it}"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigurationError(
            "LBFGS keeps the history of all weights in flat vectors and moves masked weights "
            "through its curvature estimate: use a first-order optimizer while masks are held"
        )


def _runs_hooks(optimizer: Optimizer) -> bool:
    return hasattr(optimizer, "_optimizer_step_post_hooks") and bool(
        getattr(type(optimizer).step, "hooked", False)
    )


def _parts(optimizer: Any) -> Iterator[tuple[str, Optimizer]]:
    """The optimizers among the attributes of another one, which it wraps."""
    for name, value in list(getattr(optimizer, "__dict__", {}).items()):
        if isinstance(value, Optimizer):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from (
                (f"{name}[{i}]", v) for i, v in enumerate(value) if isinstance(v, Optimizer)
            )


def with_parts(optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizers and all that they wrap, each once: whatever may keep state of a weight."""
    found: dict[int, Optimizer] = {}
    waiting = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            waiting += [part for _, part in _parts(optimizer)]
    return list(found.values())


def parameters_of(optimizer: Optimizer) -> set[int]:
    """The ids of its parameters."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _contains(optimizer: Optimizer, others: Iterable[Optimizer]) -> bool:
    """Whether ``optimizer`` is one of ``others`` or wraps one, at any depth."""
    return not {id(each) for each in with_parts([optimizer])}.isdisjoint(map(id, others))


#: Pruners by their optimizers, for the hooks on all optimizers.
_LISTENERS: weakref.WeakKeyDictionary[Listener, "weakref.WeakSet[Optimizer]"] = (
    weakref.WeakKeyDictionary()
)


def register_hooks(
    optimizers: Sequence[Optimizer], listener: Listener
) -> list[torch.utils.hooks.RemovableHandle]:
    """Call ``listener`` at the steps of ``optimizers``, and of others that move the same weights.

    Only the optimizers keep ``listener`` alive: it is freed with them.
    """

    def before(optimizer: Optimizer, *_: Any) -> None:
        if _is_outermost(optimizer):
            listener.before_step(optimizer)

    def after(optimizer: Optimizer, *_: Any) -> None:
        if _is_outermost(optimizer):
            listener.after_step(optimizer)

    _listen_to_all()
    _LISTENERS[listener] = weakref.WeakSet(optimizers)
    handles = []
    for optimizer in optimizers:
        handles += [
            optimizer.register_step_pre_hook(_eager(before)),
            optimizer.register_step_post_hook(_eager(after)),
            optimizer.register_load_state_dict_pre_hook(lambda o, _: listener.before_load(o)),
        ]
    return handles


def forget(listener: Listener) -> None:
    """Stop telling ``listener`` of steps of other optimizers."""
    _LISTENERS.pop(listener, None)


@functools.cache
def _listen_to_all() -> None:
    register_optimizer_step_pre_hook(_eager(_before_any))
    register_optimizer_step_post_hook(_eager(_after_any))


def _eager(hook: Callable[..., None]) -> Callable[..., None]:
    # Dynamo would compile our Python anew at every mask update: hooks run outside of it.
    outside: Callable[..., None] = torch.compiler.disable(hook)
    return outside


def _before_any(optimizer: Optimizer, *_: Any) -> None:
    for listener, own in list(_LISTENERS.items()):
        is_foreign = not _contains(optimizer, own)
        if is_foreign and not any(each in own for each in _under_way()):
            listener.before_foreign_step(optimizer)


def _after_any(optimizer: Optimizer, *_: Any) -> None:
    for listener, own in list(_LISTENERS.items()):
        if optimizer not in own and _contains(optimizer, own):
            listener.after_step(optimizer)  # a wrapper may have written after the inner step


def _under_way() -> list[Optimizer]:
    """The optimizers whose ``step`` is on the call stack, the innermost first.

    The stack is what tells a step within a step from one that an exception ended.
    """
    found = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _STEP:
            found.append(frame.f_locals["self"])
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _is_outermost(optimizer: Optimizer) -> bool:
    """Whether this is the step itself: not one that it takes through ``super().step``."""
    return sum(each is optimizer for each in _under_way()) <= 1


class StepCount:
    """Counts the steps of an optimizer that train.

    A step does not count if a gradient scaler made it empty (a fused optimizer is called all the
    same and told by ``found_inf``, a tensor on its device) or if :func:`is_idle`. ``found_inf`` is
    added up on its device and read only with the count, so that a step does not wait for a device.
    """

    def __init__(self, value: int = 0) -> None:
        self._taken = value
        self._skipped: Tensor | None = None
        self._unread = 0  # steps that may have been skipped

    @property
    def at_most(self) -> int:
        """The count if no step since the last reading was skipped."""
        return self._taken

    @property
    def at_least(self) -> int:
        """The count if all steps since the last reading that may have been skipped were."""
        return self._taken - self._unread

    @property
    def value(self) -> int:
        """The count. Waits for the device."""
        if self._skipped is not None:
            self._taken -= int(self._skipped)
            self._skipped, self._unread = None, 0
        return self._taken

    def add(self, optimizer: Optimizer) -> None:
        """Count a step that ``optimizer`` has just taken."""
        if is_idle(optimizer):
            return
        self._taken += 1
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None:
            skipped = torch.as_tensor(found_inf).detach() != 0
            if self._skipped is not None and self._skipped.device == skipped.device:
                skipped = self._skipped + skipped
            elif self._skipped is not None:  # the tensors moved to another device
                self._taken, self._unread = self.value, 0
            self._skipped = skipped.to(torch.int64)
            self._unread += 1


def is_idle(optimizer: Optimizer) -> bool:
    """Whether no weight could move: learning rates and gradients are all zero.

    torch.distributed.checkpoint's ``get_state_dict`` takes such a step where an optimizer has no
    state. Rates on another device are taken to be nonzero: reading them would wait.
    """
    if any(_is_nonzero(group.get("lr", 1.0)) for group in optimizer.param_groups):
        return False
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return all(grad is None or is_zero(grad) for grad in grads)


def _is_nonzero(rate: float | Tensor) -> bool:
    if isinstance(rate, Tensor) and rate.device.type != "cpu":
        return True
    return bool(rate != 0.0)


def wait_for_backward(callback: Callable[[], None]) -> bool:
    """Call at the end of the backward pass under way; False if there is none."""
    if not torch_private.in_backward():
        return False
    torch_private.call_after_backward(callback)
    return True
