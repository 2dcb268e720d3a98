"""Families: networks of one kind at any width, the data they learn, what counts as better."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from billhook.errors import ConfigurationError
from billhook.study.spec import Data
from billhook.tasks.task import Metric

__all__ = ["Examples", "Family", "Metric", "Split", "family"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs (one row an example) and their targets."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclasses.dataclass(frozen=True)
class Split:
    """Disjoint examples to train on, to choose by, and to report on."""

    train: Examples
    validation: Examples
    test: Examples


@dataclasses.dataclass(frozen=True)
class Family:
    """What a study needs to know about its models and data.

    Args:
        build: the network of a width, its weights drawn from torch's global generator.
        split: a seed's own train, validation and test examples.
        loss: of outputs and targets, averaged over the examples.
        evaluate: every metric's value on some examples, by name.
        metrics: the first one is the one that the verdict is about.
    """

    build: Callable[[int], nn.Module]
    split: Callable[[int, Data], Split]
    loss: Callable[[Tensor, Tensor], Tensor]
    evaluate: Callable[[nn.Module, Examples], Mapping[str, float]]
    metrics: tuple[Metric, ...]

    def metric(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            ConfigurationError: there is none.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = ", ".join(metric.name for metric in self.metrics)
        raise ConfigurationError(f"metric {name!r} is none of this family's: use one of {known}")


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in _FAMILIES:
        raise ConfigurationError(f"no family {name!r}: use one of {', '.join(_FAMILIES)}")
    return _FAMILIES[name]


def _perceptron(width: int) -> nn.Module:
    """64 pixels, two hidden layers of ``width`` units, 10 classes."""
    return nn.Sequential(
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels / 16.0).float(), torch.from_numpy(labels).long()


def _digits_split(seed: int, data: Data) -> Split:
    pixels, labels = _digits()
    sizes = [data.train, data.validation, data.test]
    if sum(sizes) > len(labels):
        raise ConfigurationError(
            f"data asks for {' + '.join(map(str, sizes))} = {sum(sizes)} of {len(labels)} digits: "
            "use fewer"
        )
    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(labels)))
    parts = order[: sum(sizes)].split(sizes)
    return Split(*(Examples(pixels[part], labels[part]) for part in parts))


@torch.no_grad()
def _classify(model: nn.Module, examples: Examples) -> dict[str, float]:
    outputs = model(examples.inputs)
    correct = outputs.argmax(dim=1) == examples.targets
    return {
        "accuracy": correct.double().mean().item(),
        "cross_entropy": nn.functional.cross_entropy(outputs.double(), examples.targets).item(),
    }


_FAMILIES = {
    "digits": Family(
        build=_perceptron,
        split=_digits_split,
        loss=nn.functional.cross_entropy,
        evaluate=_classify,
        metrics=(
            Metric("accuracy", higher_is_better=True, scale=100.0, unit="points", digits=2),
            Metric("cross_entropy", higher_is_better=False, scale=1.0, unit="nats", digits=4),
        ),
    )
}
