"""Schedules whose sparsity falls in between, so that all weights can come back."""

import bisect
import dataclasses
import math
from typing import ClassVar

from billhook.errors import ConfigurationError
from billhook.schedule import Schedule, check_step

__all__ = ["Alternating", "Cyclic"]


@dataclasses.dataclass(frozen=True)
class Alternating(Schedule):
    """AC/DC: sparse and dense phases alternate, ``frequency`` steps each; the last one is sparse.

    At ``begin_step`` the masks are drawn at ``final_sparsity``; one ``frequency`` later all weights
    may train again, starting from zero; then the masks are drawn anew, and so on. From ``end_step``
    on the network is sparse. Optimizer state starts afresh at every switch.

    ``s_t = s_f`` at the updates 0, 2, 4, ... and at the last one, ``0`` at the others.

    Source: Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training".

    >>> schedule = Alternating(0.9, begin_step=10, end_step=50, frequency=10)
    >>> [schedule(t) for t in (0, 10, 20, 30, 40, 50, 60)]
    [0.0, 0.9, 0.0, 0.9, 0.0, 0.9, 0.9]
    """

    falls: ClassVar[bool] = True
    restarts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_sparsity:
            raise ConfigurationError(
                f"initial_sparsity {self.initial_sparsity} has no meaning for phases that are "
                "dense or at final_sparsity: leave it out"
            )

    def __call__(self, step: int) -> float:
        if step < self.begin_step:
            return 0.0
        count = bisect.bisect_right(self.updates, step)
        return self.final_sparsity if step >= self.end_step or count % 2 else 0.0

    def rise(self, progress: float) -> float:
        """1 in sparse phases, 0 in dense ones."""
        step = self.begin_step + math.floor(progress * self._window)
        return float(self(step) > 0.0)


@dataclasses.dataclass(frozen=True)
class Cyclic(Schedule):
    """Eq. 1 repeated: the sparsity falls back at the start of each cycle.

    The window is divided into ``cycles`` of equally many updates. Within each the sparsity rises
    from ``initial_sparsity`` to ``final_sparsity``, so that weights which were pruned too early can
    return at the start of the next one, with the values they had when they were masked.

    Source: Srinivas et al. 2022, "Cyclical Pruning for Sparse Neural Networks".

    Raises:
        ConfigurationError: also if the updates cannot be divided into cycles of two or more.

    >>> schedule = Cyclic(0.8, begin_step=0, end_step=5, frequency=1, cycles=2)
    >>> [round(schedule(t), 2) for t in range(7)]
    [0.0, 0.7, 0.8, 0.0, 0.7, 0.8, 0.8]
    """

    cycles: int = 2

    falls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step("cycles", self.cycles, 1)
        count = len(self.updates)
        if count % self.cycles or count < 2 * self.cycles:
            raise ConfigurationError(
                f"{count} mask updates (both ends of the window included) cannot be divided into "
                f"{self.cycles} cycles of two or more: use num_updates="
                f"{max(2, round(count / self.cycles)) * self.cycles - 1}"
            )

    def __call__(self, step: int) -> float:
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        length = len(self.updates) // self.cycles
        place = (bisect.bisect_right(self.updates, step) - 1) % length
        return self.at(place / (length - 1))

    def rise(self, progress: float) -> float:
        """``1 - (1 - progress) ** 3`` at ``progress`` through a cycle."""
        return 1.0 - (1.0 - progress) ** 3
