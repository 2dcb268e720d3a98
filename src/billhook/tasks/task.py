"""What the training loop asks of a task: batches, a loss, an evaluation."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from billhook.distillation import Teacher
from billhook.errors import ConfigurationError

__all__ = ["ALONE", "Metric", "Shard", "Task", "epoch_order"]


#: Examples from which ranges are found, at least, where there are as many.
CALIBRATED = 256


@dataclasses.dataclass(frozen=True)
class Shard:
    """This process among those that train together: it sees each ``world``-th row of a batch."""

    rank: int = 0
    world: int = 1

    def check(self, batch_size: int) -> None:
        """Every process has to get the same share.

        Raises:
            ConfigurationError: ``batch_size`` is not a multiple of the number of processes.
        """
        if batch_size % self.world:
            raise ConfigurationError(
                f"batch_size {batch_size} does not divide among {self.world} processes: "
                "use a multiple"
            )


ALONE = Shard()


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of merit. Reports show ``scale * value`` in ``unit`` with ``digits`` decimals."""

    name: str
    higher_is_better: bool
    scale: float
    unit: str
    digits: int
    test_only: bool = False  # too costly for validation

    @property
    def label(self) -> str:
        """The name in words, one that is its unit written as the unit is.

        >>> Metric("bleu_greedy", True, scale=1.0, unit="BLEU", digits=2).label
        'BLEU greedy'
        """
        if self.name == "cross_entropy":
            return "cross-entropy"
        unit = self.unit
        return " ".join(unit if word == unit.lower() else word for word in self.name.split("_"))

    @property
    def shown_in(self) -> str:
        """What its values are in, "" for a pure number; differences of per cents are in points."""
        return "%" if self.scale == 100 else self.unit

    def with_unit(self, difference: str) -> str:
        """A difference's figures and, if there is one, the unit.

        >>> Metric("perplexity", False, scale=1.0, unit="", digits=2).with_unit("0.36")
        '0.36'
        """
        return f"{difference} {self.unit}".rstrip()


class Task(abc.ABC):
    """A model with its data, its loss and its metrics, of which the first is the one that counts.

    The model's ``prune_rules``, if it has them, say what is pruned.
    """

    model: nn.Module
    data_description: str  # one line: where the data are from and how many
    steps_per_epoch: int
    examples_per_step: int  # pictures, words or pairs of sentences
    metrics: tuple[Metric, ...] = ()
    own_splits: bool = False  # each seed draws its own split of the data
    validates_on_test: bool = False  # "valid" and "test" are the same examples
    learns_from_teachers: bool = False  # loss() mixes in what the teacher says, if there is one
    teacher: Teacher | None = None

    @abc.abstractmethod
    def batches(self, epoch: int, start: int, device: torch.device) -> Iterator[Any]:
        """Batches ``start`` and on of an epoch, the same ones for the same epoch and seed."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The scalar to minimise."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float | str]:
        """Metrics on "valid" or "test"; ``model`` is in evaluation mode, no gradients."""

    def example_inputs(self) -> tuple[torch.Tensor, ...] | None:
        """The model's inputs for one example, by which its latency is measured; None: it is not."""
        return None

    def calibration(self) -> list[tuple[torch.Tensor, ...]]:
        """Some hundred training examples as the model takes them, in batches.

        They give the ranges of activations in 8 bits. Here: what batches begin with, as many
        tensors as :meth:`example_inputs` has.
        """
        inputs = self.example_inputs() or ()
        batches: list[tuple[torch.Tensor, ...]] = []
        for batch in self.batches(0, 0, torch.device("cpu")):
            batches.append(tuple(batch[: len(inputs)]))
            if len(batches) >= 2 and sum(len(each[0]) for each in batches) >= CALIBRATED:
                break
        return batches

    def examples(self, model: nn.Module) -> list[dict[str, str]]:  # noqa: ARG002 - most have none
        """A few inputs and outputs to read, for the result."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What the task carries from batch to batch, for exact resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - nothing carried
        """Continue from :meth:`state_dict`."""


def epoch_order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The shuffled indices of an epoch: a function of seed and epoch, nothing else."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)
