"""Drop and grow: part of what is left is dropped, and as many are regrown by their gradients."""

import dataclasses
import math

from billhook.errors import ConfigurationError
from billhook.schedule import Schedule

__all__ = ["GradientRegrowth"]


@dataclasses.dataclass(frozen=True)
class GradientRegrowth:
    """At each update drop a share of the survivors, and grow as many of the largest gradients.

    Given as ``Pruner(regrow=GradientRegrowth(0.3))``. With k survivors due, ``k - r`` of those in
    use survive by their score, and of all others the r with the largest ``|dL/dw|`` are grown,
    starting from zero, where ``r = round(k * fraction / 2 * (1 + cos(pi * progress)))`` and
    progress goes from 0 at ``begin_step`` to 1 at ``end_step``. The gradients of masked weights are
    taken from the backward passes of the update's own step. Updates that find no mask in force,
    such as the first, only prune.

    - RigL: ``OneShot(0.9, 0, end_step, frequency=100)`` with ``ErdosRenyi(kernel=True)``.
    - GraNet: ``Cubic(0.9, begin_step, end_step, initial_sparsity=0.5)`` with ``Global()`` and a
      fraction of 0.5.

    Args:
        fraction: the share that is dropped and grown at first, in (0, 1).

    Source: Evci et al. 2020, "Rigging the Lottery"; Liu et al. 2021, "Sparse Training via Boosting
    Pruning Plasticity with Neuroregeneration".

    >>> from billhook import OneShot
    >>> schedule = OneShot(0.9, 0, 100, frequency=25)
    >>> [round(GradientRegrowth(0.3).share(schedule, step), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    fraction: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise ConfigurationError(
                f"fraction {self.fraction} is outside (0, 1): it is the share of the weights in "
                "use that changes at an update, for example 0.3"
            )

    def share(self, schedule: Schedule, step: int) -> float:
        """The share of the survivors that is dropped and grown at ``step``."""
        window = schedule.end_step - schedule.begin_step
        progress = min(1.0, (step - schedule.begin_step) / window) if window else 1.0
        return self.fraction / 2 * (1 + math.cos(math.pi * progress))
