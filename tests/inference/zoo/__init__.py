"""Small models of every common kind, with inputs: whole programs must run each of them."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from billhook.inference.graph import Layer
from billhook.inference.plan import Choice

from . import images, sequences, transformers

__all__ = ["ZOO", "choices_of", "small"]

ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    **{
        name: (make, lambda shape=shape: (torch.rand(1, *shape),))  # type: ignore[misc]
        for name, (make, shape) in images.MODELS.items()
    },
    **sequences.MODELS,
    **transformers.MODELS,
}


def small(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model with 60% zeros, and its inputs."""
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) < 0.4)
    return model, inputs()


def choices_of(graph: Any, rng: random.Random, dense: bool = True) -> dict[str, Choice]:
    """Any kernel that may run each layer."""
    return {
        op.name: Choice(
            rng.choice([k for k in op.kernels_for() if dense or k != "dense"]), rng.randint(1, 16)
        )
        for op in graph.ops
        if isinstance(op, Layer)
    }
