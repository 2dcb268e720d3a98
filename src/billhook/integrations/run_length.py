"""How long a run is: windows in shares of it, or in epochs."""

from dataclasses import asdict, dataclass
from typing import Any

from billhook.errors import ConfigurationError

__all__ = ["RunLength"]


@dataclass(frozen=True)
class RunLength:
    """The length of a run, of which a callback's schedule may be made when the run starts.

    Args:
        steps: optimizer steps of the whole run.
        steps_per_epoch: those of one pass through the data; None if nobody knows it beforehand.

    >>> run = RunLength(steps=1_000, steps_per_epoch=100)
    >>> run.share(0.25), run.epoch(2), run.epoch(2.5)
    (250, 200, 250)
    """

    steps: int
    steps_per_epoch: int | None = None

    def share(self, part: float) -> int:
        """The step at which this part of the run is done.

        Raises:
            ConfigurationError: the part is not between 0 and 1.
        """
        if not 0 <= part <= 1:
            raise ConfigurationError(
                f"share({part}) is not of the run: give a part from 0 to 1, such as 0.25"
            )
        return round(part * self.steps)

    def epoch(self, count: float) -> int:
        """The step at which so many epochs are done; none of them are done at step 0.

        Raises:
            ConfigurationError: the length of an epoch is not known, or the number is negative.
        """
        if self.steps_per_epoch is None:
            raise ConfigurationError(
                "the data do not say how long an epoch is: give the window in shares of the run, "
                "as run.share(0.25)"
            )
        if count < 0:
            raise ConfigurationError(f"epoch({count}) is before the run: give 0 or more")
        return round(count * self.steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint: a run that goes on keeps the schedule with which it began."""
        return asdict(self)
