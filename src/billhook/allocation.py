"""One budget over many layers: how a schedule becomes a sparsity for each tensor."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from billhook.schedule import Schedule

__all__ = ["Allocation", "Uniform"]


class Allocation(Protocol):
    """Any callable of this signature; its ``repr`` is its configuration in checkpoints."""

    def __call__(
        self, step: int, schedules: Mapping[str, Schedule], scores: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """The sparsity of every tensor at the update of ``step``.

        Args:
            step: the update's step.
            schedules: each tensor's schedule; they differ where a rule sets another sparsity.
            scores: each tensor's fp32 scores, computed only when asked for.
        """


@dataclasses.dataclass(frozen=True)
class Uniform:
    """The paper's standard scheme: every tensor follows its own schedule.

    >>> from billhook import OneShot
    >>> Uniform()(5, {"a": OneShot(0.9, 5), "b": OneShot(0.5, 5)}, {})
    {'a': 0.9, 'b': 0.5}
    """

    def __call__(
        self,
        step: int,
        schedules: Mapping[str, Schedule],
        scores: Mapping[str, Tensor],  # noqa: ARG002 - the same for every tensor
    ) -> dict[str, float]:
        return {name: schedule(step) for name, schedule in schedules.items()}
