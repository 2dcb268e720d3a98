"""What the adapters share: a Pruner made in the middle of a framework's training loop."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import nn
from torch.optim import Optimizer

from billhook.allocation import Allocation
from billhook.criterion import Criterion
from billhook.errors import StateError
from billhook.granularity import Granularity
from billhook.mask import Mask
from billhook.pruner import Pruner
from billhook.schedule import Schedule
from billhook.selection import Rules, named_weights

__all__ = ["PrunerOptions", "attach", "check_options"]


class PrunerOptions(TypedDict, total=False):
    """The keyword options of :class:`billhook.Pruner`."""

    criterion: Criterion
    granularity: Granularity
    allocation: Allocation
    rules: Rules | None
    regrow: bool


def check_options(schedule: Schedule, options: PrunerOptions) -> None:
    """Raise TypeError for an option that Pruner does not have, long before it is made."""
    inspect.signature(Pruner).bind(None, None, schedule, **options)


def attach(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    schedule: Schedule,
    options: PrunerOptions,
    state: Mapping[str, Any] | None,
) -> Pruner:
    """A Pruner for a new run, or with a ``state`` for one that goes on from a checkpoint.

    The framework has already loaded the checkpoint's weights into ``model``.

    Raises:
        StateError: the state is none, fits another model or configuration, or was not saved
            together with these weights.
    """
    if state is not None:
        _check_saved_together(model, state)
    pruner = Pruner(model, optimizers, schedule, **options)
    if state is not None:
        try:
            pruner.load_state_dict(state)
        except StateError:
            pruner.detach()
            raise
    return pruner


def _check_saved_together(model: nn.Module, state: Mapping[str, Any]) -> None:
    """See that the weights are zero where the masks are: they are in a checkpoint of one run."""
    entries = state.get("weights", {})
    for weight in named_weights(model):
        entry = entries.get(weight.name)
        parameter = weight.parameter.detach()
        if entry is None or tuple(entry["shape"]) != tuple(parameter.shape):
            continue  # load_state_dict names what is wrong with these
        keep = Mask.from_bits(entry["mask"].to(parameter.device), parameter.shape).keep()
        strays = int((parameter[~keep] != 0).sum())
        if strays:
            raise StateError(
                f"{strays} weights of {weight.name!r} are not zero where the pruner state's mask "
                "is: weights and pruner state are of different checkpoints; resume from one that "
                "has both"
            )
