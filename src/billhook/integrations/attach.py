"""What the adapters share: a Pruner made in the middle of a framework's training loop."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from billhook import Pruner
from billhook.errors import StateError
from billhook.schedule import Schedule

__all__ = ["attach", "check_options"]


def check_options(schedule: Schedule, options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that Pruner does not have, long before one is made."""
    inspect.signature(Pruner).bind(None, None, schedule, **options)


def attach(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    schedule: Schedule,
    options: Mapping[str, Any],
    state: Mapping[str, Any] | None,
) -> Pruner:
    """A Pruner for a new run, or with a ``state`` for one that goes on from a checkpoint.

    The framework has already loaded the checkpoint's weights into ``model``.

    Raises:
        StateError: the state is none, is another model's or configuration's, or was not saved
            together with these weights.
    """
    if state is None:
        return Pruner(model, optimizers, schedule, **options)
    nonzero = {name: int(p.count_nonzero()) for name, p in model.named_parameters()}
    pruner = Pruner(model, optimizers, schedule, **options)
    try:
        pruner.load_state_dict(state)
        for name, parameter in model.named_parameters():
            strays = nonzero[name] - int(parameter.count_nonzero())
            if strays:
                raise StateError(
                    f"{strays} weights of {name!r} were not zero where the mask of the pruner "
                    "state is: weights and pruner state are of different checkpoints; resume from "
                    "one that has both"
                )
    except StateError:
        pruner.detach()
        raise
    return pruner
