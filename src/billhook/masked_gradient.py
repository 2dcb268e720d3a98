"""The gradient of one pruned tensor: zero where the weight is masked, from accumulation on."""

import gc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from billhook import torch_private
from billhook.backends.triton import is_capturing
from billhook.distributed import after_reduction, is_sharded, mean_over, part, whole
from billhook.errors import StateError
from billhook.mask import Mask

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["EndOfBackward", "MaskedGradient", "check_free"]


class MaskedGradient:
    """Masks the gradient of a parameter where it is accumulated, and again if it is written.

    The parameter does not keep this object alive: its hook goes when this object goes.

    Args:
        parameter: whose gradient it is.
        mask: the mask in force, one object for all time.
        replicas: the groups of ranks that hold the same part of the parameter as this one.
    """

    def __init__(
        self, parameter: torch.nn.Parameter, mask: Mask, replicas: tuple["ProcessGroup", ...]
    ) -> None:
        self._parameter = parameter
        self._mask = mask
        #: The groups over which a gradient is averaged only after it was accumulated: DDP's.
        self._reduced_later = () if is_sharded(parameter) else replicas
        self._masked: tuple[weakref.ref[Tensor], int] | None = None
        self._collects = False
        self._lost: Tensor | None = None
        self._end: EndOfBackward | None = None
        self._hook = self._register_hook()

    def mask_at(self, end: "EndOfBackward") -> None:
        """Have all gradients masked together by what is called at the end of a backward pass."""
        self._end = end

    @property
    def was_written(self) -> bool:
        """Whether this is another gradient than the one that was masked last."""
        grad = self._parameter.grad
        if grad is None or self._masked is None:
            return grad is not None
        masked, version = self._masked
        return masked() is not grad or torch_private.version(part(grad)) != version

    def mask(self) -> None:
        """Write zeros where the weight is masked."""
        for mask, grad in self.jobs():
            mask.zero_(grad)
        self.note()

    def jobs(self) -> list[tuple[Mask, Tensor]]:
        """What is to be masked in order to mask the gradient; :meth:`note` it afterwards."""
        grad = self._parameter.grad
        if grad is None or (self._mask.keeps_all and not is_capturing()):
            return []
        if grad.is_sparse:  # rows of an embedding, possibly repeated
            indices, values = torch_private.sparse_parts(grad)
            values.masked_fill_(~self._mask_of(grad).alive()[indices[0]], 0.0)
            return []
        return [(self._mask_of(grad), part(grad))]

    def note(self) -> None:
        """Remember the gradient as masked until it is written again."""
        grad = self._parameter.grad
        if grad is not None:
            self._masked = weakref.ref(grad), torch_private.version(part(grad))

    def collect(self, wanted: bool) -> None:
        """Whether to remember, in the backward passes to come, gradients of masked weights too."""
        self._collects, self._lost = wanted, None

    def dense(self) -> Tensor | None:
        """The gradient as it was before it was masked, laid out as the parameter; None: not there.

        A collective where replicas hold the same part: the mean of theirs.
        """
        grad, lost = self._parameter.grad, self._lost
        if grad is None or lost is None:
            return None
        mine = _dense_part(grad) + mean_over(lost, self._reduced_later)
        return whole(mine, self._parameter)

    def release(self) -> None:
        """Remove the hook and forget what was collected."""
        self._hook.remove()
        self._lost = None

    def after_accumulation(self) -> None:
        """A gradient was accumulated: in main memory it is masked while it is in the cache.

        On other devices all are masked together when the backward pass is over, and where DDP
        averages them afterwards, too: a low-rank average, say, leaves no zero where it was.
        """
        if self._collects:
            self._collect()
        if self._end is not None and (self._reduced_later or not _in_main_memory(self._parameter)):
            self._end.ask()
        else:
            self.mask()

    def _collect(self) -> None:
        grad = self._parameter.grad
        if grad is None:
            return
        mine = _dense_part(grad)
        lost = mine.masked_fill(self._mask_of(grad).alive(), 0.0)
        self._lost = lost if self._lost is None else self._lost + lost

    def _mask_of(self, grad: Tensor) -> Mask:
        return self._mask.move_to(part(grad).device)

    def _register_hook(self) -> torch.utils.hooks.RemovableHandle:
        parameter = self._parameter
        frozen = not parameter.requires_grad  # torch takes the hook only from a leaf in use
        parameter.requires_grad_(True)
        handle: torch.utils.hooks.RemovableHandle = parameter.register_post_accumulate_grad_hook(
            _Hook(self)
        )
        parameter.requires_grad_(not frozen)
        weakref.finalize(self, handle.remove).atexit = False
        return handle


class EndOfBackward:
    """Calls back once when the backward pass that asks for it is over, after DDP's reducer."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._asked = -1  # the backward pass that has asked

    def ask(self) -> None:
        """Called from a gradient hook."""
        task = torch_private.backward_pass()
        if task != self._asked:
            self._asked = task
            after_reduction(self._callback)


class _Hook:
    """What a parameter knows of its pruner: it lives in C++, where no collector finds a cycle."""

    def __init__(self, gradient: MaskedGradient) -> None:
        self.gradient = weakref.ref(gradient)

    def __call__(self, parameter: Tensor) -> None:  # noqa: ARG002 - it is the gradient's
        if (gradient := self.gradient()) is not None:
            gradient.after_accumulation()


def _in_main_memory(parameter: Tensor) -> bool:
    return parameter.is_cpu


def _dense_part(grad: Tensor) -> Tensor:
    mine = part(grad)
    return mine.to_dense() if mine.is_sparse else mine


def check_free(name: str, parameter: Tensor) -> None:
    """See that no other pruner holds ``parameter``.

    Raises:
        StateError: one does.
    """
    if _is_held(parameter):
        gc.collect()  # a pruner that nobody can reach any more does not count
    if _is_held(parameter):
        raise StateError(
            f"{name!r} is held by another Pruner, which would go on masking its gradients: call "
            "detach() or finalize() of that one first (in a notebook, pruner.detach() before the "
            "cell is run again), or start from a new model"
        )


def _is_held(parameter: Tensor) -> bool:
    hooks = torch_private.gradient_hooks(parameter)
    return any(isinstance(hook, _Hook) and hook.gradient() is not None for hook in hooks)
