"""The gradient of one pruned tensor: zero where the weight is masked, from accumulation on."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from billhook import torch_private
from billhook.backends import native
from billhook.backends.triton import is_capturing
from billhook.distributed import after_reduction, is_sharded, mean_over, part, whole
from billhook.errors import StateError
from billhook.mask import Mask

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["EndOfBackward", "LastMasked", "MaskedGradient", "check_free"]


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
        self.parameter = parameter
        self._mask = mask
        #: The groups over which a gradient is averaged only after it was accumulated: DDP's.
        self._reduced_later = () if is_sharded(parameter) else replicas
        self._last, self._place = LastMasked(1), 0
        self._lost: Tensor | None = None
        self._known = _Knowledge(self)
        self._handle = self._register(self._known.hook())

    def join(self, end: "EndOfBackward", last: "LastMasked", place: int) -> None:
        """Have it masked with others, by what is called at the end of a backward pass.

        Args:
            end: calls it.
            last: what was masked last of the others, and from now on of this one.
            place: this one's there.
        """
        self._known.end, self._last, self._place = end, last, place

    @property
    def keeps_all(self) -> bool:
        """Whether the mask in force masks nothing."""
        return self._mask.keeps_all

    @property
    def was_written(self) -> bool:
        """Whether this is another gradient than the one that was masked last."""
        grad = self.parameter.grad
        if grad is None:
            return False
        last, place = self._last, self._place
        same = last.tensors[place]() is grad
        return not same or torch_private.version(part(grad)) != last.versions[place]

    def mask(self) -> None:
        """Write zeros where the weight is masked."""
        for mask, grad in self.jobs():
            mask.zero_(grad)
        self.note()

    def jobs(self) -> list[tuple[Mask, Tensor]]:
        """What is to be masked in order to mask the gradient; :meth:`note` it afterwards."""
        grad = self.parameter.grad
        if grad is None or (self._mask.keeps_all and not is_capturing()):
            return []
        if grad.is_sparse:  # rows of an embedding, possibly repeated
            indices, values = torch_private.sparse_parts(grad)
            values.masked_fill_(~self._mask_of(grad).alive()[indices[0]], 0.0)
            return []
        return [(self._mask_of(grad), part(grad))]

    def note(self) -> None:
        """Remember the gradient as masked until it is written again."""
        grad = self.parameter.grad
        if grad is not None:
            self._last.tensors[self._place] = weakref.ref(grad)
            self._last.versions[self._place] = torch_private.version(part(grad))

    def collect(self, wanted: bool) -> None:
        """Whether to remember, in the backward passes to come, gradients of masked weights too."""
        self._known.collects, self._lost = wanted, None

    def dense(self) -> Tensor | None:
        """The gradient as it was before it was masked, laid out as the parameter; None: not there.

        A collective where replicas hold the same part: the mean of theirs.
        """
        grad, lost = self.parameter.grad, self._lost
        if grad is None or lost is None:
            return None
        mine = _dense_part(grad) + mean_over(lost, self._reduced_later)
        return whole(mine, self.parameter)

    def release(self) -> None:
        """Remove the hook and forget what was collected."""
        self._handle.remove()
        self._lost = None

    def after_accumulation(self) -> None:
        """A gradient was accumulated: in main memory it is masked while it is in the cache.

        On other devices all are masked together when the backward pass is over, and where DDP
        averages them afterwards, too: a low-rank average, say, leaves no zero where it was.
        """
        if self._known.collects:
            self._collect()
        here = native.in_main_memory(self.parameter) and not self._reduced_later
        if here or self._known.end is None:
            self.mask()
        else:
            self._known.end.ask()

    def _collect(self) -> None:
        grad = self.parameter.grad
        if grad is None:
            return
        mine = _dense_part(grad)
        lost = mine.masked_fill(self._mask_of(grad).alive(), 0.0)
        self._lost = lost if self._lost is None else self._lost + lost

    def _mask_of(self, grad: Tensor) -> Mask:
        return self._mask.move_to(part(grad).device)

    def _register(self, hook: Callable[[Tensor], None]) -> torch.utils.hooks.RemovableHandle:
        parameter = self.parameter
        frozen = not parameter.requires_grad  # torch takes the hook only from a leaf in use
        parameter.requires_grad_(True)
        handle: torch.utils.hooks.RemovableHandle = parameter.register_post_accumulate_grad_hook(
            hook
        )
        parameter.requires_grad_(not frozen)
        weakref.finalize(self, handle.remove).atexit = False
        return handle


class LastMasked:
    """The gradients of some parameters that were masked last, and their versions then."""

    __slots__ = ("tensors", "versions")

    def __init__(self, count: int) -> None:
        self.tensors: list[Callable[[], Tensor | None]] = [_nothing] * count
        self.versions = [-1] * count

    def differ(self, grads: Sequence[Tensor | None], versions: Sequence[int]) -> list[bool]:
        """Which of the parameters' gradients are there and are others, or were written since."""
        return [
            grad is not None and (last() is not grad or now != then)
            for grad, last, now, then in zip(
                grads, self.tensors, versions, self.versions, strict=True
            )
        ]

    def note(self, grads: Sequence[Tensor | None], versions: list[int]) -> None:
        """All of these are masked."""
        self.tensors = [_nothing if grad is None else weakref.ref(grad) for grad in grads]
        self.versions = versions


class EndOfBackward:
    """Calls back once when the backward pass that asks for it is over, after DDP's reducer.

    Args:
        callback: a method; this object does not keep what it belongs to alive.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = weakref.WeakMethod(callback)
        #: Gives something as long as a backward pass is under way that has asked.
        self.asked: Callable[[], object] = _nothing

    def ask(self) -> None:
        """Called from a gradient hook."""
        if self.asked() is not None:
            return

        def over() -> None:  # the engine alone holds it, and drops it with a pass that failed
            self.asked = _nothing
            if (callback := self._callback()) is not None:
                callback()

        self.asked = weakref.ref(over)
        after_reduction(over)


class _Knowledge:
    """What a parameter knows of its pruner, in C++, where no collector finds a cycle."""

    __slots__ = ("collects", "end", "gradient")

    def __init__(self, gradient: MaskedGradient) -> None:
        self.gradient = weakref.ref(gradient)
        self.collects = False
        self.end: EndOfBackward | None = None

    def hook(self) -> Callable[[Tensor], None]:
        """A function, since the engine calls one faster than any other object."""

        def masked(parameter: Tensor) -> None:  # noqa: ARG001 - it is the gradient's
            if (end := self.end) is not None and end.asked() is not None and not self.collects:
                return  # all are masked at the end of this pass
            if (gradient := self.gradient()) is not None:
                gradient.after_accumulation()

        masked.knowledge = self  # type: ignore[attr-defined]
        return masked


def _nothing() -> None:
    """A weak reference to what is not there."""


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
    known = (getattr(h, "knowledge", None) for h in torch_private.gradient_hooks(parameter))
    return any(isinstance(each, _Knowledge) and each.gradient() is not None for each in known)
