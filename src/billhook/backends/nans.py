"""Counts of NaN scores on their way from a device to the host, which nobody waits for."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from billhook.errors import MaskError

__all__ = ["NanCheck", "nan_scores", "record_event"]


class Event(Protocol):
    """The part of ``torch.Event`` that is used."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


def record_event(device: torch.device) -> Event:
    """An event behind all work of the current stream of ``device``."""
    event = torch.Event(device)
    event.record()
    return event


def nan_scores(nans: int, numel: int) -> str:
    """What an error says of scores that are NaN."""
    return (
        f"{nans} of {numel} scores are NaN and cannot be ranked: look for the divergence that "
        "brought them in (learning rate, loss, data)"
    )


class NanCheck:
    """The NaN counts of the last mask update, on their way from the device."""

    def __init__(self) -> None:
        self._event: Event | None = None
        self._counts: Tensor | None = None
        self._names: tuple[str, ...] = ()

    def expect(self, step: int, counts: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        """Fetch the numbers of NaN scores that the update of ``step`` met.

        Args:
            step: the update's.
            counts: by tensor, each on the device.
            sizes: by tensor, its number of weights.
        """
        if not counts:
            return
        self._step, self._sizes, self._names = step, sizes, tuple(counts)
        found = torch.stack(list(counts.values()))
        self._counts = found.to("cpu", non_blocking=True)
        self._event = None if found.device.type == "cpu" else record_event(found.device)

    def check(self, *, wait: bool = False) -> None:
        """See that there was no NaN, once the counts have arrived; ``wait`` for them if told.

        Raises:
            MaskError: a score was NaN.
        """
        if self._counts is None:
            return
        if self._event is not None and wait:
            self._event.synchronize()
        if self._event is not None and not self._event.query():
            return
        counts, self._counts = self._counts.tolist(), None
        for name, count in zip(self._names, counts, strict=True):
            if count:
                raise MaskError(
                    f"no mask for {name!r} at step {self._step}: "
                    f"{nan_scores(count, self._sizes[name])}"
                )
