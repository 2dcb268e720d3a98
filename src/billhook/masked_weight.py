"""One pruned tensor: its mask, and while masks still change the values it keeps aside."""

import gc
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from billhook.distributed import (
    after_reduction,
    is_sharded,
    mean_over,
    part,
    part_like,
    total,
    whole,
)
from billhook.errors import StateError
from billhook.mask import Mask
from billhook.optimizer_state import Copies, hold_state
from billhook.report import TensorReport
from billhook.schedule import Schedule
from billhook.selection import Weight

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["MaskedWeight", "check_free", "tensor_report"]


class MaskedWeight:
    """A parameter that holds zeros in place, and the raw values that stood there.

    ``raw = where(mask, parameter, aside)``: the parameter itself is what the model sees, so
    nothing in the model is renamed, wrapped or hooked. The values aside are packed: one for every
    masked weight, in row-major order, in the parameter's dtype. Of a DTensor, mask and values
    aside are those of the part on this rank. The parameter does not keep this object alive: its
    gradient hook goes when this object goes.

    Args:
        weight: the tensor and its places in the model.
        schedule: its sparsity over the steps.
        optimizers: all that may hold state of it.
        replicas: the groups of ranks that hold the same part of it as this one.
    """

    def __init__(
        self,
        weight: Weight,
        schedule: Schedule,
        optimizers: Sequence[Optimizer],
        *,
        replicas: tuple["ProcessGroup", ...] = (),
    ) -> None:
        self.weight = weight
        self.schedule = schedule
        self.replicas = replicas
        self.mask = Mask(torch.ones_like(self.part, dtype=torch.bool))
        self.kept = self.parameter.numel()  # on all ranks together
        self.aside: Tensor | None = None
        self._collects = False
        self._lost_grad: Tensor | None = None
        self._optimizers = tuple(optimizers)
        self._copies = Copies()
        self._version = self.part._version
        self._masked_grad: tuple[weakref.ref[Tensor], int] | None = None
        self._as_attached: Tensor | None = None
        self._hook = self._register_hook()

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.weight.name

    @property
    def parameter(self) -> torch.nn.Parameter:
        """The parameter the model sees."""
        return self.weight.parameter

    @property
    def part(self) -> Tensor:
        """What this rank holds of the parameter: all of it, unless it is a DTensor."""
        return part(self.parameter)

    @property
    def target(self) -> float:
        """The sparsity in the end: the schedule's, or what it is where existing zeros are held."""
        if not self.schedule.holds_zeros:
            return self.schedule.final_sparsity
        return 1.0 - self.kept / self.parameter.numel() if self.parameter.numel() else 0.0

    def keep(self) -> Tensor:
        """The mask in force as bools, laid out as the parameter."""
        return whole(self._mask_here().keep(), self.parameter)

    def raw(self) -> Tensor:
        """The weight with the values kept aside back in their places, as a new tensor."""
        return whole(self._raw_part(), self.parameter)

    def set_mask(self, keep: Tensor, *, keep_aside: bool) -> None:
        """Put ``keep`` in force: values come back where it is True, go aside where it is not.

        Interrupted at any point, it leaves the raw values whole, so that it can be done again.
        """
        raw = self._raw_part()
        mine = part(part_like(keep, self.parameter))
        mask, aside = Mask(mine), raw[~mine] if keep_aside else None
        with torch.no_grad():
            self.part.copy_(raw)
        self.mask, self.aside = mask, aside
        self._put_in_force()

    def mark_attached(self) -> None:
        """Remember the weights as the mask that was drawn at attach left them."""
        self._as_attached = _fingerprint(self.part)

    def restore(self, mask: Mask, aside: Tensor | None) -> None:
        """Replace mask and values aside by those of a checkpoint, whose weights are loaded.

        Where they were loaded before the pruner attached, the mask that was drawn then may have
        put some of them aside: those come back. At any other time the values aside are those of
        the run that is given up.
        """
        drawn = self._as_attached if self.aside is not None else None
        if drawn is not None and torch.equal(drawn, _fingerprint(self.part)):
            with torch.no_grad():
                self.part.copy_(self._raw_part())
        self._as_attached = None
        self.mask = mask
        self.aside = None if aside is None else aside.to(self.part, copy=True)
        self._put_in_force()

    def hold(self) -> None:
        """Zeros in the weight and its optimizer state wherever it is masked, after a step."""
        mask = self._mask_here()
        mask.zero_(self.part)
        self.hold_state()
        self._version = self.part._version

    def hold_state(self) -> None:
        """Fresh optimizer state wherever the weight is masked."""
        for optimizer in self._optimizers:
            hold_state(optimizer, self.parameter, self._mask_here(), self.name, self._copies)

    def check(self) -> None:
        """Before a step, see that this is still the model's parameter, with zeros at masked places.

        A gradient that was written since the backward pass is masked again.

        Raises:
            StateError: another Parameter stands in its place, or a load brought in weights that
                are not zero where the mask is.
        """
        for module, attribute in self.weight.owners:
            if module._parameters.get(attribute) is not self.parameter:
                raise StateError(
                    f"{self.name!r} is no longer the parameter this pruner was attached to "
                    f"(attribute {attribute!r} of {type(module).__name__} was replaced): copy "
                    "values into the old one with copy_(), or detach() and attach a new Pruner; "
                    "fully_shard and other wrappers that replace parameters come before the Pruner"
                )
        self._as_attached = None
        if self._grad_was_written():
            self._mask_grad()
        if not self.was_written:
            return
        strays = int((self.part.detach()[~self._mask_here().keep()] != 0).sum())
        if strays:
            raise StateError(
                f"{strays} weights of {self.name!r} were written where the mask holds zeros: load "
                "the pruner state that belongs to these weights too, or load them before the "
                "Pruner is made, or call pruner.apply_to(model). If an optimizer wrapper wrote "
                "them (Lookahead, an averaging one), give that to the Pruner"
            )
        self._version = self.part._version

    def strays(self) -> int:
        """How many weights are not zero where the mask is, on all ranks together."""
        return total(
            int(self.part.detach()[~self._mask_here().keep()].count_nonzero()), self.parameter
        )

    def loose_zeros(self) -> int:
        """How many weights are zero though the mask keeps them; 0 of a tensor of zeros alone."""
        nonzero = total(int(self.part.count_nonzero()), self.parameter)
        return self.kept - nonzero if nonzero else 0

    def collect_gradient(self, wanted: bool) -> None:
        """Whether to remember, in the backward passes to come, gradients of masked weights too."""
        self._collects, self._lost_grad = wanted, None

    def dense_gradient(self) -> Tensor | None:
        """The gradient as it was before it was masked, laid out as the parameter; None: not there.

        A collective where replicas hold the same part: the mean of theirs.
        """
        grad, lost = self.parameter.grad, self._lost_grad
        if grad is None or lost is None:
            return None
        mine = part(grad)
        mine = (mine.to_dense() if mine.is_sparse else mine) + mean_over(lost, self._reduced_later)
        return whole(mine, self.parameter)

    def forget_state(self) -> None:
        """Fresh optimizer state of the whole weight, as if it had never been trained."""
        nothing = Mask(torch.zeros_like(self.part, dtype=torch.bool))
        for optimizer in self._optimizers:
            hold_state(optimizer, self.parameter, nothing, self.name, self._copies)

    @property
    def _reduced_later(self) -> tuple["ProcessGroup", ...]:
        """The groups over which a gradient is averaged only after it was accumulated: DDP's."""
        return () if is_sharded(self.parameter) else self.replicas

    def _collect(self) -> None:
        grad = self.parameter.grad
        if grad is None:
            return
        mine = part(grad)
        mine = mine.to_dense() if mine.is_sparse else mine
        lost = mine.masked_fill(self._mask_here().keep(), 0.0)
        self._lost_grad = lost if self._lost_grad is None else self._lost_grad + lost

    def release(self) -> None:
        """Remove the gradient hook and forget the values aside; the zeros stay."""
        self._hook.remove()
        self.aside = self._as_attached = self._lost_grad = None

    def _put_in_force(self) -> None:
        """Hold a new mask, in the gradient of the last backward pass too."""
        self.kept = total(self.mask.kept, self.parameter)
        self._mask_grad()
        self.hold()

    @property
    def was_written(self) -> bool:
        """Whether the weight changed since :meth:`hold`, outside of an optimizer step."""
        return self.part._version != self._version

    def _raw_part(self) -> Tensor:
        raw = self.part.detach().clone(memory_format=torch.contiguous_format)
        mask = self._mask_here()
        if self.aside is not None:
            raw[~mask.keep()] = self.aside
        return raw

    def _mask_here(self) -> Mask:
        """The mask, moved to where the parameter now lives, and the values aside with it."""
        mine = self.part
        if self.mask.bits.device != mine.device:
            self.mask.to(mine.device)
        if self.aside is not None:
            self.aside = self.aside.to(mine)
        return self.mask

    def _register_hook(self) -> torch.utils.hooks.RemovableHandle:
        frozen = not self.parameter.requires_grad  # torch takes the hook only from a leaf in use
        self.parameter.requires_grad_(True)
        handle: torch.utils.hooks.RemovableHandle = (
            self.parameter.register_post_accumulate_grad_hook(_GradientHook(self))
        )
        self.parameter.requires_grad_(not frozen)
        weakref.finalize(self, handle.remove).atexit = False
        return handle

    def after_accumulation(self) -> None:
        """Mask a gradient that has just been accumulated."""
        if self._collects:
            self._collect()
        self._mask_grad()
        if self.replicas and not is_sharded(self.parameter):
            after_reduction(self._mask_grad)  # a low-rank one, say, leaves no zero where it was

    def _grad_was_written(self) -> bool:
        """Whether this is another gradient than the one that was masked last."""
        grad = self.parameter.grad
        if grad is None or self._masked_grad is None:
            return grad is not None
        masked, version = self._masked_grad
        return masked() is not grad or part(grad)._version != version

    def _mask_grad(self) -> None:
        grad = self.parameter.grad
        if grad is None:
            return
        if grad.is_sparse:  # rows of an embedding, possibly repeated
            rows = self._mask_here().keep()[grad._indices()[0]]
            grad._values().masked_fill_(~rows, 0.0)
        else:
            self._mask_here().zero_(part(grad))
        self._masked_grad = weakref.ref(grad), part(grad)._version


class _GradientHook:
    """What a parameter knows of its pruner: it lives in C++, where no collector finds a cycle."""

    def __init__(self, weight: MaskedWeight) -> None:
        self.weight = weakref.ref(weight)

    def __call__(self, parameter: Tensor) -> None:  # noqa: ARG002 - it is the weight's
        if (weight := self.weight()) is not None:
            weight.after_accumulation()


def tensor_report(weight: MaskedWeight) -> TensorReport:
    """What is left of a weight; a collective if it is sharded."""
    return TensorReport(
        name=weight.name,
        shape=tuple(weight.parameter.shape),
        kept=weight.kept,
        nonzero=total(int(weight.part.count_nonzero()), weight.parameter),
        target=weight.target,
    )


def check_free(name: str, parameter: Tensor) -> None:
    """See that no other pruner holds ``parameter``.

    Raises:
        StateError: one does.
    """
    if _is_held(parameter):
        gc.collect()  # one that nobody can reach any more, with its optimizer, is none
    if _is_held(parameter):
        raise StateError(
            f"{name!r} is held by another Pruner, which would go on masking its gradients: call "
            "detach() or finalize() of that one first (in a notebook, pruner.detach() before the "
            "cell is run again), or start from a new model"
        )


def _is_held(parameter: Tensor) -> bool:
    hooks = (parameter._post_accumulate_grad_hooks or {}).values()
    return any(isinstance(hook, _GradientHook) and hook.weight() is not None for hook in hooks)


def _fingerprint(values: Tensor) -> Tensor:
    """A number that nearly every change of the values changes."""
    return torch.hash_tensor(values.detach()) if values.numel() else torch.zeros(())
