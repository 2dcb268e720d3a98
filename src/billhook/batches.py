"""Masks of many tensors together: one launch for each device that has kernels for it.

What no kernel takes (tensors in main memory, odd layouts, devices without Triton) is left to the
caller or done by torch's own operations, one tensor at a time. Both give the same bits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from billhook.backends import triton
from billhook.backends.triton import Change, Held, Zero
from billhook.mask import Mask

__all__ = ["Batches"]

_Result = TypeVar("_Result")


class Batches:
    """The kernels of each device, made when they are first needed."""

    def __init__(self) -> None:
        self._of: dict[torch.device, triton.Batch | None] = {}

    def takes(self, device: torch.device) -> bool:
        """Whether tensors of ``device`` are treated together."""
        return self._batch(device) is not None

    def zero(self, jobs: Sequence[tuple[Mask, Tensor]], *, check: bool = False) -> None:
        """Write +0.0 into each tensor where its mask does not keep it.

        Args:
            jobs: masks and tensors; several tensors may share a mask.
            check: read first and write only what is not zero yet, which pays where that is rare.
        """
        ready: dict[torch.device, list[Zero]] = {}
        for mask, tensor in jobs:
            layout = triton.layout_of(tensor) if self.takes(tensor.device) else None
            if layout is None:
                mask.zero_(tensor)
            else:
                ready.setdefault(tensor.device, []).append(Zero(mask.bits, tensor, layout))
        for device, group in ready.items():
            work = functools.partial(triton.Batch.zero, check=check)
            if self._attempt(device, work, group) is None:
                for mask, tensor in jobs:
                    if tensor.device == device:
                        mask.zero_(tensor)

    def prepare(
        self, jobs: Sequence[tuple[Mask, Tensor]]
    ) -> Callable[[Sequence[Tensor]], bool] | None:
        """What does :meth:`zero` for other tensors under the same masks in one launch.

        It is valid for tensors of the same layouts and device, as long as no mask moves, and until
        the next one is prepared. It says whether it was done. None if one launch is not enough.
        """
        device = jobs[0][1].device
        if not self.takes(device) or len({(each.device, each.dtype) for _, each in jobs}) > 1:
            return None
        ready = []
        for mask, tensor in jobs:
            if (layout := triton.layout_of(tensor)) is None:
                return None
            ready.append(Zero(mask.bits, tensor, layout))
        if (zero := self._attempt(device, triton.Batch.prepare, ready)) is None:
            return None
        return lambda tensors: bool(self._attempt(device, lambda _: zero(tensors)))

    def rank(self, tensors: Sequence[Held]) -> list[tuple[Tensor, Tensor] | None]:
        """Of each tensor the bits of its largest raw magnitudes and the number of NaNs.

        None where no kernel takes the tensor.
        """
        return self._together(tensors, triton.Batch.rank)

    def exchange(self, changes: Sequence[Change], *, keep_aside: bool) -> list[bool]:
        """Put masks in force and move the weights that leave or return; whether it was done."""
        work = functools.partial(triton.Batch.exchange, keep_aside=keep_aside)
        return [bool(each) for each in self._together(changes, work)]

    def _together(
        self,
        items: Sequence[Any],
        work: Callable[[triton.Batch, list[Any]], list[_Result]],
    ) -> list[_Result | None]:
        ready: dict[torch.device, list[int]] = {}
        for i, item in enumerate(items):
            if self.takes(item.weight.device) and item.fits:
                ready.setdefault(item.weight.device, []).append(i)
        results: list[_Result | None] = [None] * len(items)
        for device, places in ready.items():
            mine = [items[i] for i in places]
            found = self._attempt(device, work, mine)
            for i, result in zip(places, found or [], strict=found is not None):
                results[i] = result
        return results

    def _batch(self, device: torch.device) -> triton.Batch | None:
        if device not in self._of:
            works = triton.is_available(device)
            self._of[device] = triton.Batch(device) if works else None
        return self._of[device]

    def _attempt(
        self, device: torch.device, work: Callable[..., _Result], *given: Any
    ) -> _Result | None:
        """The result, or None from the first failure of the device's kernels on."""
        batch = self._of[device]
        if batch is None:
            return None
        try:
            return work(batch, *given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a driver raises
            triton.log_failure(device, error)
            self._of[device] = None
            return None
