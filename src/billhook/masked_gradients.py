"""The gradients of all pruned tensors, masked together."""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import NamedTuple

from torch import Tensor

from billhook import torch_private
from billhook.backends.triton import is_capturing
from billhook.batches import Batches
from billhook.distributed import reader_of_parts
from billhook.mask import Mask
from billhook.masked_gradient import EndOfBackward, LastMasked, MaskedGradient

__all__ = ["MaskedGradients"]


class MaskedGradients:
    """Masks gradients at the end of a backward pass, and again before a step if they were written.

    This is where the host's time of a step goes, for it looks at every gradient. So what one launch
    for all of them needs is kept for the next step, and of gradients that are like the last ones
    nothing is asked but which they are, their versions, their layouts and their addresses.
    """

    def __init__(self, gradients: Sequence[MaskedGradient], batches: Batches) -> None:
        self._gradients = tuple(gradients)
        self._parameters = [gradient.parameter for gradient in gradients]
        self._parts = reader_of_parts(self._parameters)
        self._batches = batches
        self._routine: _Routine | None = None
        self._known, self._any = -1, False  # of masks in force: ``Mask.changes`` then, and whether
        self._last = LastMasked(len(gradients))
        end = EndOfBackward(self.mask)
        for place, gradient in enumerate(gradients):
            gradient.join(end, self._last, place)

    def mask(self) -> None:
        """Mask all that were written since they were masked."""
        if not self._masks_any():
            return
        grads = [parameter.grad for parameter in self._parameters]
        mine = self._parts(grads)
        versions = torch_private.versions(mine)
        written = self._last.differ(grads, versions)
        if not any(written):
            return
        tensors = [each for each in compress(mine, written) if each is not None]
        routine = self._routine
        if routine is not None and routine.fits(tensors, written) and routine.zero(tensors):
            self._last.note(grads, [version + 1 for version in versions])
        else:
            jobs = self._mask(list(compress(self._gradients, written)))
            self._routine = self._routine_of(jobs, tensors, written)

    def mask_some(self, gradients: Iterable[MaskedGradient]) -> None:
        """Mask those of some that were written since they were masked."""
        self._mask([gradient for gradient in gradients if gradient.was_written])

    def _mask(self, gradients: Sequence[MaskedGradient]) -> list[tuple[Mask, Tensor]]:
        jobs = [job for gradient in gradients for job in gradient.jobs()]
        self._batches.zero(jobs)
        for gradient in gradients:
            gradient.note()
        return jobs

    def _routine_of(
        self,
        jobs: Sequence[tuple[Mask, Tensor]],
        tensors: Sequence[Tensor],
        written: list[bool],
    ) -> "_Routine | None":
        """What to do with the next gradients, if it can be said beforehand."""
        if len(jobs) != len(tensors) or (zero := self._batches.prepare(jobs)) is None:
            return None
        return _Routine(Mask.changes, written, torch_private.alike(tensors), zero)

    def _masks_any(self) -> bool:
        """Whether a mask is in force, or will be when what is recorded now is replayed."""
        if self._known != Mask.changes:
            self._known = Mask.changes
            self._any = not all(gradient.keeps_all for gradient in self._gradients)
        return self._any or is_capturing()


class _Routine(NamedTuple):
    """How gradients are masked that are like the last ones."""

    changes: int  #: ``Mask.changes`` when it was made
    written: list[bool]  #: which gradients it is for
    alike: Callable[[Sequence[Tensor | None]], bool]
    zero: Callable[[Sequence[Tensor]], bool]  #: writes each once; False if it failed

    def fits(self, tensors: Sequence[Tensor], written: list[bool]) -> bool:
        same = self.changes == Mask.changes and self.written == written
        return same and not is_capturing() and self.alike(tensors)
