"""The device and the precision of a training run: bfloat16 where its recipe asks for it, and where
it counts fp32.

Weights and optimizer are in fp32 either way; forward and backward passes may be in bfloat16.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerator_for", "check_device", "full_precision"]


def check_device(device: str) -> str:
    """The kind of device that ``--device`` means here, "cpu" or one of torch's accelerators.

    Raises:
        ConfigurationError: there is no such device.

    >>> check_device("cpu")
    'cpu'
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"--device {device!r} is not one of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "--device cuda: torch finds no CUDA device here; give --device cpu, or install a torch "
            "that is built for the GPU's driver"
        )
    present = torch.accelerator.current_accelerator(check_available=True)
    return device if device != "auto" else "cpu" if present is None else present.type


def accelerator_for(recipe: Recipe, device: str = "auto") -> "Accelerator":
    """Accelerate's view of this process's device and ranks, at the recipe's precision.

    Args:
        recipe: what is trained.
        device: as for :func:`check_device`.

    Raises:
        ConfigurationError: there is no such device; or bfloat16 is asked for, and this device's
            fused LSTM has none.
    """
    from accelerate import Accelerator

    precision = "bf16" if recipe.training.bf16 else "no"
    check_device(device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
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
