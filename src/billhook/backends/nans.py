"""Counts on their way from a device to the host, which nobody waits for."""

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LateCheck", "nan_scores", "record_event"]


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


class LateCheck:
    """Counts that should be 0, on their way from a device; nobody waits for them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Event, Tensor, list[Callable[[int], Exception]]]] = deque()

    def expect(self, counts: Mapping[str, Tensor], error: Callable[[str, int], Exception]) -> None:
        """Fetch the counts of tensors.

        Args:
            counts: by tensor, on any devices but the CPU.
            error: what to raise of a tensor, given its name and a count that is not 0.
        """
        by_device: dict[torch.device, list[str]] = {}
        for name, count in counts.items():
            by_device.setdefault(count.device, []).append(name)
        for device, names in by_device.items():
            found = torch.stack([counts[name] for name in names]).to("cpu", non_blocking=True)
            errors: list[Callable[[int], Exception]] = [functools.partial(error, n) for n in names]
            self._waiting.append((record_event(device), found, errors))

    def check(self, *, wait: bool = False) -> None:
        """Raise the error of a count that is not 0 and has arrived; ``wait`` for all if told."""
        while self._waiting:
            event, counts, errors = self._waiting[0]
            if wait:
                event.synchronize()
            if not event.query():
                return
            self._waiting.popleft()
            for count, error in zip(counts.tolist(), errors, strict=True):
                if count:
                    raise error(count)
