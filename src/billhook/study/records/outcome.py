"""What becomes of a trial: where it stands while it trains, and what it came to."""

import dataclasses

__all__ = ["Outcome", "Progress", "Sighting"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a trial stands; ``metric`` is the task's first one on validation data."""

    identity: str
    step: int
    steps: int
    sparsity: float
    metric: float


@dataclasses.dataclass(frozen=True)
class Sighting:
    """Where a trial stood when its process ``pid`` last left word of it.

    ``seconds_left`` is reckoned from the steps that this process has taken, None after the first.
    """

    progress: Progress
    pid: int
    seconds_left: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    ``bytes`` is the size of the file written, in the study's codings; ``bytes_*`` what the trained
    network takes in one coding each (every tensor dense where that is smaller). Operations are
    multiply-adds: of the whole training, three times the forward pass; and of one example at
    inference, zeros skipped.
    """

    parameters: int
    nonzero: int
    bytes: int
    bytes_dense: int
    bytes_bitmask: int
    bytes_relative_index: int
    bytes_entropy: int
    training_operations: int
    inference_operations: int
    seconds: float
    validation: dict[str, float]
