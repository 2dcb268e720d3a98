"""One pruned tensor: its mask, and while masks still change the values it keeps aside."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from billhook import torch_private
from billhook.backends import native, portable
from billhook.backends.triton import Change, Held, is_capturing
from billhook.distributed import is_sharded, part, part_like, total, whole
from billhook.errors import StateError
from billhook.mask import Mask, select
from billhook.masked_gradient import MaskedGradient
from billhook.optimizer_state import Copies, held_state, hold_state
from billhook.schedule import Schedule
from billhook.selection import Weight

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Drawn", "MaskedWeight"]


class Drawn(NamedTuple):
    """A mask that an update has drawn."""

    mask: Mask | Tensor  #: of this rank's part, or bools laid out as the parameter, True = kept
    kept: int  #: the number of survivors on all ranks together


class MaskedWeight:
    """A parameter that holds zeros in place, and the raw values that stood there.

    ``raw = where(mask, parameter, aside)``: the parameter itself is what the model sees, so
    nothing in the model is renamed, wrapped or hooked. The values aside lie in a buffer of the
    parameter's shape, dtype and strides, whose entries mean nothing where the mask keeps: so a mask
    update moves what changes and nothing else. Of a DTensor, mask and values aside are those of
    the part on this rank. The parameter does not keep this object alive: its gradient hook goes
    when this object goes.

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
        self.parameter = weight.parameter  #: the one that the model sees
        self.schedule = schedule
        self.replicas = replicas
        self._is_sharded = is_sharded(weight.parameter)
        self.mask = Mask.of_all(self.part)
        self.gradient = MaskedGradient(self.parameter, self.mask, replicas)
        self.kept = self.parameter.numel()  # on all ranks together
        self.aside: Tensor | None = None
        self._optimizers = tuple(optimizers)
        self._copies = Copies()
        self._versions, self._place = [torch_private.version(self.part)], 0
        self._as_attached: Tensor | None = None
        self._ceiling = self._next_ceiling = native.NO_CEILING  # of the magnitudes aside
        self._ranked: weakref.ref[Mask] | None = None

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.weight.name

    @property
    def part(self) -> Tensor:
        """What this rank holds of the parameter: all of it, unless it is a DTensor."""
        parameter = self.weight.parameter
        return part(parameter) if self._is_sharded else parameter

    @property
    def target(self) -> float:
        """The sparsity in the end: the schedule's, or what it is where existing zeros are held."""
        if not self.schedule.holds_zeros:
            return self.schedule.final_sparsity
        return 1.0 - self.kept / self.parameter.numel() if self.parameter.numel() else 0.0

    def alive(self) -> Tensor:
        """The mask in force as bools, laid out as the parameter."""
        return whole(self._mask_here().alive(), self.parameter)

    def raw(self) -> Tensor:
        """The weight with the values kept aside back in their places, as a new tensor."""
        return whole(self._raw_part(), self.parameter)

    def rank(self, count: int) -> tuple[Mask, Tensor | int]:
        """The mask of the ``count`` largest raw magnitudes, and the number of NaNs.

        What ``Magnitude`` and ``Unstructured`` draw of a tensor that is not sharded, with nothing
        made but the mask. Off the CPU the number of NaNs stays on the device, and where it is not 0
        the mask is the one in force.
        """
        mask, mine = self._mask_here(), self.part.detach()
        if self._is_native(mine):
            known = mine, self.aside, mask.bits, count
            nans, bits, self._next_ceiling = native.select_raw(*known, self._ceiling)
            ranked = Mask.from_bits(bits, mine.shape, count)
            self._ranked = weakref.ref(ranked)
            return ranked, nans
        masked = mask.masked(mine)
        if self.aside is not None:
            portable.complete(mine, self.aside, masked)
        scores = (mine if self.aside is None else self.aside).to(torch.float32).abs()
        if self.aside is None:
            scores = scores.masked_fill(masked, -torch.inf)
        if mine.device.type == "cpu":
            return Mask(select(scores, count), count), 0
        nans_there, alive = portable.select(scores, count)
        return Mask(torch.where(nans_there == 0, alive, ~masked), count), nans_there

    def join(self, versions: list[int], place: int) -> None:
        """Note in ``versions``, at this place, when it was last known to be zero where masked."""
        versions[place] = self._versions[self._place]
        self._versions, self._place = versions, place

    @torch.no_grad()
    def set_mask(self, drawn: Drawn, *, keep_aside: bool, settled: bool) -> None:
        """Put a mask in force: values come back where it keeps, go aside where it does not.

        Interrupted at any point, it leaves the raw values whole, so that it can be done again.

        Args:
            drawn: the mask.
            keep_aside: whether what becomes masked may return.
            settled: whether gradient and state are zero where the weight is masked now.
        """
        new = self.local(drawn)
        if keep_aside:
            self.make_room()
        settles = settled and self._is_native(self.part) and self._settle_leaving(new)
        self._exchange(new)
        self.changed(drawn.kept, keep_aside=keep_aside)
        if not settles:
            self.gradient.mask()
            self.hold_state()
        self.checked()

    def local(self, drawn: Drawn) -> Mask:
        """The mask of this rank's part."""
        if isinstance(drawn.mask, Mask):
            return drawn.mask
        mine = part(part_like(drawn.mask, self.parameter))
        return Mask(mine, None if is_sharded(self.parameter) else drawn.kept)

    def held(self, count: int) -> Held:
        """What kernels need to draw a mask of ``count`` survivors."""
        return Held(self.part.detach(), self.aside, self._mask_here().bits, count)

    def change_to(self, new: Mask) -> Change:
        """What kernels need to put ``new`` in force."""
        return Change(self.part.detach(), self.aside, self._mask_here().bits, new.bits)

    def changed(self, kept: int, *, keep_aside: bool) -> None:
        """A mask with so many survivors, on all ranks together, is in force."""
        self.kept = kept
        if not keep_aside:
            self.aside = None

    def settle_jobs(self) -> list[tuple[Mask, Tensor]]:
        """What is to be zeroed after a new mask, if gradient and state were zero by the old one."""
        return [*self.gradient.jobs(), *((self.mask, state) for state in self._state())]

    def settled(self) -> None:
        """The weight, its gradient and its state are zero where it is masked."""
        self.gradient.note()
        self.checked()

    def checked(self) -> None:
        """The weight is zero where it is masked, until it is written."""
        self._versions[self._place] = torch_private.version(self.part)

    def make_room(self) -> None:
        """Room for the values aside, which then neither grows nor moves."""
        if self.aside is None:
            self.aside = torch.zeros_like(self.part.detach())

    def _exchange(self, new: Mask) -> None:
        mask, mine = self._mask_here(), self.part.detach()
        self._ceiling = native.NO_CEILING
        if self._is_native(mine) and self.aside is not None:
            native.exchange(mine, self.aside, mask.bits, new.bits)
            mask.changed(new.kept)
            if self._ranked is not None and self._ranked() is new:
                self._ceiling = self._next_ceiling
            return
        if self.aside is not None and not mask.keeps_all:
            portable.complete(mine, self.aside, mask.masked(mine))
            mine.copy_(self.aside)
        elif self.aside is not None:
            self.aside.copy_(mine)
        mask.assign(new)  # weight and values aside are both whole: either mask is right
        mask.zero_(mine)

    def _settle_leaving(self, new: Mask) -> bool:
        """Zeros in gradient and optimizer state where weights leave, if all was zero before.

        False if native passes cannot do it.
        """
        if self.gradient.was_written:
            return False
        tensors = self._state()
        if self.parameter.grad is not None:
            tensors.append(part(self.parameter.grad))
        if not all(native.fits(each) for each in tensors):
            return False
        for each in tensors:
            native.zero_leaving(each, self._mask_here().bits, new.bits)
        self.gradient.note()
        return True

    def _state(self) -> list[Tensor]:
        """What the optimizers hold of each weight, this rank's parts."""
        return [value for o in self._optimizers for value in held_state(o, self.parameter)]

    def _is_native(self, mine: Tensor) -> bool:
        beside = self.aside is None or native.fits(self.aside)
        return native.is_available() and native.fits(mine) and beside

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
        self._ceiling = native.NO_CEILING
        self._mask_here().assign(mask)
        if aside is None:
            self.aside = None
        else:
            self.make_room()
            assert self.aside is not None
            self.aside[~mask.alive()] = aside.to(self.part)
        self.kept = total(self.mask.kept, self.parameter)
        self.gradient.mask()
        self.hold()

    def packed_aside(self) -> Tensor | None:
        """The values aside, one for each masked weight in row-major order; None if none return."""
        if self.aside is None:
            return None
        return self.aside[~self._mask_here().alive()]

    def hold_if_moved(self) -> None:
        """Hold the zeros if a weight in main memory has moved where it is masked.

        That is after the step of an optimizer that leaves masked weights alone by itself: then a
        gradient was written behind torch's back.
        """
        if self.mask.keeps_all or not self._is_native(self.part):
            return
        if native.zero(self.part, self._mask_here().bits):
            self.gradient.mask()
            self.hold()

    def hold(self) -> None:
        """Zeros in the weight and its optimizer state wherever it is masked."""
        mask = self._mask_here()
        mask.zero_(self.part)
        self.hold_state()
        self.checked()

    def hold_state(self) -> None:
        """Fresh optimizer state wherever the weight is masked."""
        self._refresh_state(self._mask_here())

    def check(self) -> None:
        """Before a step, see that this is still the model's parameter.

        Raises:
            StateError: another Parameter stands in its place.
        """
        parameter = self.weight.parameter
        for module, attribute in self.weight.owners:
            if torch_private.parameters_of(module).get(attribute) is not parameter:
                raise StateError(
                    f"{self.name!r} is no longer the parameter this pruner was attached to "
                    f"(attribute {attribute!r} of {type(module).__name__} was replaced): copy "
                    "values into the old one with copy_(), or detach() and attach a new Pruner; "
                    "fully_shard and other wrappers that replace parameters come before the Pruner"
                )
        self._as_attached = None
        self._mask_here()

    def written_at_masked(self) -> Tensor | None:
        """How many weights were written where the mask holds zeros, on their device.

        None if nothing was written since the zeros were held.
        """
        if not self.was_written or is_capturing():
            return None
        mine = self.part.detach()
        return (mine.ne(0) & self._mask_here().masked(mine)).sum()

    def nans(self) -> int:
        """How many weights are NaN, on all ranks together."""
        return total(int(self.part.detach().isnan().sum()), self.parameter)

    def strays(self) -> int:
        """How many weights are not zero where the mask is, on all ranks together."""
        masked = self.part.detach()[~self._mask_here().alive()]
        return total(int(masked.count_nonzero()), self.parameter)

    def loose_zeros(self) -> int:
        """How many weights are zero though the mask keeps them; 0 of a tensor of zeros alone."""
        nonzero = total(int(self.part.count_nonzero()), self.parameter)
        return self.kept - nonzero - self._padding_zeros() if nonzero else 0

    def _padding_zeros(self) -> int:
        """The zeros of an embedding's padding row, which no gradient ever moves."""
        module, _ = self.weight.owners[0]
        row = getattr(module, "padding_idx", None)
        if row is None or is_sharded(self.parameter):
            return 0
        return int(((self.part.detach()[row] == 0) & self._mask_here().alive()[row]).sum())

    def forget_state(self) -> None:
        """Fresh optimizer state of the whole weight, as if it had never been trained."""
        self._refresh_state(Mask(torch.zeros_like(self.part, dtype=torch.bool)))

    def _refresh_state(self, mask: Mask) -> None:
        for optimizer in self._optimizers:
            hold_state(optimizer, self.parameter, mask, self.name, self._copies)

    def release(self) -> None:
        """Remove the gradient hook and forget the values aside; the zeros stay."""
        self.gradient.release()
        self.aside = self._as_attached = None

    @property
    def was_written(self) -> bool:
        """Whether the weight changed since :meth:`hold`, outside of an optimizer step."""
        return torch_private.version(self.part) != self._versions[self._place]

    def _raw_part(self) -> Tensor:
        mine, mask = self.part.detach(), self._mask_here()
        if self.aside is None or mask.keeps_all:
            return mine.clone(memory_format=torch.contiguous_format)
        return torch.where(mask.alive(), mine, self.aside).contiguous()

    def _mask_here(self) -> Mask:
        """The mask, moved to where the parameter now lives, and the values aside with it."""
        mine = self.part
        if mine.shape != self.mask.shape:
            raise StateError(
                f"{self.name!r} was resized from {tuple(self.mask.shape)} to {tuple(mine.shape)} "
                "under the Pruner, whose mask has the old shape: detach() it before a layer is "
                "resized, and attach a new Pruner"
            )
        self.mask.move_to(mine.device)
        beside = self.aside
        if beside is not None and (beside.device, beside.dtype) != (mine.device, mine.dtype):
            self.aside = torch.empty_like(mine.detach()).copy_(beside)
            self._ceiling = native.NO_CEILING
        return self.mask


def _fingerprint(values: Tensor) -> Tensor:
    """A number that nearly every change of the values changes."""
    return torch.hash_tensor(values.detach()) if values.numel() else torch.zeros(())
