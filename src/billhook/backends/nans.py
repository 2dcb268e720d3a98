"""Counts of NaN scores on their way from a device to the host, which nobody waits for."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["NanReport", "record_event"]


class Event(Protocol):
    """The part of ``torch.Event`` that is used."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


def record_event(device: torch.device) -> Event:
    """An event behind all work of the current stream of ``device``."""
    event = torch.Event(device)
    event.record()
    return event


@dataclasses.dataclass
class NanReport:
    """The NaN counts of one mask update.

    Args:
        step: the update's.
        names: the tensors.
        counts: one for each of them, on the device.
    """

    step: int
    names: Sequence[str]
    counts: Tensor

    def __post_init__(self) -> None:
        device = self.counts.device
        self.counts = self.counts.to("cpu", non_blocking=True)
        self._event = None if device.type == "cpu" else record_event(device)

    def ready(self, *, wait: bool = False) -> bool:
        """Whether the counts have arrived; ``wait`` for them if told."""
        if self._event is not None and wait:
            self._event.synchronize()
        return self._event is None or self._event.query()

    def found(self) -> dict[str, int]:
        """The tensors with NaN scores, and how many; only once :meth:`ready`."""
        return {name: n for name, n in zip(self.names, self.counts.tolist(), strict=True) if n}
