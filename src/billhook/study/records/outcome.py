"""The state of a trial: its progress while it trains, and its outcome."""

import dataclasses

__all__ = ["Heartbeat", "Outcome", "Progress"]


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a trial; ``metric`` is the task's first one on validation data."""

    identity: str
    step: int
    steps: int
    sparsity: float
    metric: float


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """The progress of a trial when its process ``pid`` last recorded it.

    ``seconds_left`` is estimated from the steps that this process has taken, None after the first.
    """

    progress: Progress
    pid: int
    seconds_left: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

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
