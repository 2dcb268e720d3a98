"""What becomes of another library's settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from billhook.allocation import Allocation, Uniform
from billhook.criterion import Criterion, Magnitude
from billhook.granularity import Granularity, Unstructured
from billhook.schedule import Schedule
from billhook.selection import Rules

__all__ = ["Migrated"]


@dataclasses.dataclass(frozen=True)
class Migrated:
    """A pruner's parts, and the settings of the other tool that have no counterpart.

    ``Pruner(model, optimizer, moved.schedule, **moved.options)`` is the pruner; ``rules`` is among
    the options only if the settings name tensors.
    """

    schedule: Schedule
    criterion: Criterion = Magnitude()
    granularity: Granularity = Unstructured()
    allocation: Allocation = Uniform()
    rules: Rules | None = None
    #: Distillation's ``hardness`` and ``temperature``, for :class:`billhook.Teacher`.
    distillation: Mapping[str, float] | None = None
    #: Settings that were left out, each in a sentence.
    left_out: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of :class:`billhook.Pruner`."""
        options = {
            "criterion": self.criterion,
            "granularity": self.granularity,
            "allocation": self.allocation,
        }
        return options if self.rules is None else {**options, "rules": self.rules}
