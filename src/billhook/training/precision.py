"""The precision of a training run: bfloat16 where its recipe asks for it, and where it counts fp32.

Weights and optimizer are in fp32 either way; forward and backward passes may be in bfloat16.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe

__all__ = ["accelerator_for", "full_precision"]


def accelerator_for(recipe: Recipe) -> Any:
    """Accelerate's view of this process's device and ranks, at the recipe's precision.

    Raises:
        ConfigurationError: bfloat16 is asked for, and this device's fused LSTM has none.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="bf16" if recipe.training.bf16 else "no")
    if recipe.training.bf16 and recipe.family in FAMILIES and FAMILIES[recipe.family].recurrent:
        lstm = nn.LSTM(8, 8).to(accelerator.device)
        try:  # no list says which devices can
            with accelerator.autocast(), torch.no_grad():
                lstm(torch.zeros(2, 2, 8, device=accelerator.device))
        except RuntimeError as error:
            raise ConfigurationError(
                f"bf16: an LSTM cannot run in bfloat16 on this {accelerator.device.type} "
                f"({str(error).splitlines()[0]}); train without it"
            ) from None
    return accelerator


@contextlib.contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Without the autocast that accelerate puts around the forward of a bf16 run's model."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
