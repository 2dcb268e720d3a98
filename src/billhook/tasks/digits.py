"""Perceptrons on scikit-learn's digits: a task of seconds, and an example of one of your own."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from billhook.errors import DataError
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import Metric, Task, epoch_order

__all__ = ["Digits", "digits"]


def digits(width: float, recipe: Recipe) -> Task:
    """The task of the perceptron with two hidden layers of ``width`` units."""
    units = int(width)
    model = nn.Sequential(
        nn.Linear(64, units),
        nn.ReLU(),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Linear(units, 10),
    )
    return Digits(model, recipe)


class Digits(Task):
    """64 pixels to 10 classes; every seed draws its own split of the 1,797 pictures.

    ``[data] train`` says how many pictures are trained on, ``validation`` which share of all is
    chosen by; the rest is for testing.
    """

    metrics = (
        Metric("accuracy", higher_is_better=True, scale=100.0, unit="points", digits=2),
        Metric("cross_entropy", higher_is_better=False, scale=1.0, unit="nats", digits=4),
    )

    own_splits = True

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model, self.seed = model, recipe.training.seed
        self.size = self.examples_per_step = recipe.training.batch_size
        pixels, labels = _pictures()
        train, valid = recipe.data.train, round(recipe.data.validation * len(labels))
        sizes = [train, valid, len(labels) - train - valid]
        if min(sizes) < 1 or train < self.size:
            raise DataError(
                f"[data] train {train} and validation {recipe.data.validation} leave {sizes[2]} of "
                f"{len(labels)} digits for testing: each of the three needs some, training at "
                f"least a batch of {self.size}"
            )
        order = torch.from_numpy(np.random.default_rng([self.seed, 0]).permutation(len(labels)))
        parts = order.split(sizes)
        self.parts = {
            name: (pixels[part], labels[part])
            for name, part in zip(("train", "valid", "test"), parts, strict=True)
        }
        self.steps_per_epoch = recipe.data.train // self.size
        self.data_description = (
            "scikit-learn's digits, 1,797 grey pictures of 8 x 8, split by the seed"
        )

    def batches(self, epoch: int, start: int, device: torch.device) -> Iterator[Any]:
        """Pixels ``(B, 64)`` in [0, 1] and labels ``(B,)``; the last, unfull batch is left out."""
        pixels, labels = self.parts["train"]
        order = epoch_order(len(labels), self.seed, epoch)
        for index in range(start, self.steps_per_epoch):
            rows = order[index * self.size : (index + 1) * self.size]
            yield pixels[rows].to(device), labels[rows].to(device)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Mean cross-entropy."""
        pixels, labels = batch
        return F.cross_entropy(model(pixels), labels)

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """One picture ``(1, 64)``."""
        return (self.parts["train"][0][:1],)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float | str]:
        """``accuracy`` in [0, 1] and ``cross_entropy`` in nats."""
        pixels, labels = self.parts[split]
        outputs = model(pixels.to(next(model.parameters()).device)).cpu()
        correct = outputs.argmax(dim=1) == labels
        return {
            "accuracy": correct.double().mean().item(),
            "cross_entropy": F.cross_entropy(outputs.double(), labels).item(),
        }


@functools.cache
def _pictures() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels / 16.0).float(), torch.from_numpy(labels).long()
