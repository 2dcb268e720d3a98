"""What the callbacks share: a Pruner made in the middle of a framework's training loop."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from billhook import Pruner
from billhook.errors import StateError
from billhook.schedule import Schedule

__all__ = ["AttachesPruner"]


class AttachesPruner:
    """Base of the callbacks: takes what a Pruner takes, and makes one when training starts.

    Raises:
        TypeError: an option that Pruner does not have, long before one is made.
    """

    def __init__(self, schedule: Schedule, **options: Any) -> None:
        inspect.signature(Pruner).bind(None, None, schedule, **options)
        self.schedule = schedule
        self.options = options
        #: The pruner of the present or last run.
        self.pruner: Pruner | None = None

    def _attach(
        self, model: nn.Module, optimizers: Sequence[Optimizer], state: Mapping[str, Any] | None
    ) -> Pruner:
        """A Pruner for a new run, or with a ``state`` for one that goes on from a checkpoint.

        The framework has already loaded the checkpoint's weights into ``model``.

        Raises:
            StateError: the state is none, is another model's or configuration's, or was not saved
                together with these weights.
        """
        if self.pruner is not None:
            self.pruner.detach()
        nonzero = _count_nonzero(model) if state is not None else {}
        self.pruner = Pruner(model, optimizers, self.schedule, **self.options)
        if state is not None:
            try:
                self.pruner.load_state_dict(state)
                _check_unchanged(nonzero, _count_nonzero(model))
            except StateError:
                self.pruner.detach()
                raise
        return self.pruner


def _count_nonzero(model: nn.Module) -> dict[str, int]:
    return {name: int(p.count_nonzero()) for name, p in model.named_parameters()}


def _check_unchanged(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """See that a restored pruner found its zeros in the weights already."""
    for name in before:
        if strays := before[name] - after[name]:
            raise StateError(
                f"{strays} weights of {name!r} were not zero where the mask of the pruner state "
                "is: weights and pruner state are of different checkpoints; resume from one that "
                "has both"
            )
