"""What a study trains: a task at any width, of one of billhook's families or of the user's own."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from billhook import models
from billhook.errors import ConfigurationError
from billhook.named_model import named_function
from billhook.tasks.build import build_task, synthetic_task
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import Metric, Task

__all__ = ["WIDTH_NAMES", "Metric", "Place", "Subject"]

#: What the families call their width, and the steps in which it can be chosen.
_WIDTHS = {
    "mobilenet_v1": ("width", 0.01),
    "inception_v3": ("depth_multiplier", 0.01),
    "ptb_lstm": ("hidden", 1.0),
    "gnmt": ("units", 1.0),
}
WIDTH_NAMES = {family: name for family, (name, _) in _WIDTHS.items()}
_OWN = {"digits": "billhook.tasks.digits:digits"}


@dataclass(frozen=True)
class Place:
    """Where this machine has the data and the user's own module: no part of any identity."""

    data: Path | None = None
    modules: Path | None = None


@dataclass(frozen=True)
class Subject:
    """A family at a place.

    Args:
        family: as in a study file; so is ``kind``, which is its ``task``.
        place: where data and modules are.
        dry: noise of the recipe's shapes in place of data, to count and not to train.
    """

    family: str
    kind: str
    place: Place
    dry: bool = False

    @property
    def width_step(self) -> float:
        """Widths are whole multiples of this."""
        return _WIDTHS[self.family][1] if self.family in _WIDTHS else 1.0

    def recipe(self, recipe: Recipe, width: float, dropout: float | None) -> Recipe:
        """``recipe`` for that width and dropout, where they are arguments of a billhook family."""
        changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
        if self.family in _WIDTHS:
            name, step = _WIDTHS[self.family]
            changes[name] = int(width) if step == 1.0 else width
            if self.family == "ptb_lstm":
                changes["size"] = None
        return recipe.changed(model=changes) if changes else recipe

    def task(self, recipe: Recipe, width: float) -> Task:
        """The task at that width, its weights drawn from torch's global generator.

        Raises:
            ConfigurationError: no such family, or a function that returns something else.
        """
        if self.family in _WIDTHS:
            if self.dry:
                return synthetic_task(recipe.changed(training={"batch_size": 2}))
            return build_task(self.recipe(recipe, width, None), self.place.data)
        made = self._function()(width) if self.kind else self._function()(width, recipe)
        wanted = nn.Module if self.kind else Task
        if not isinstance(made, wanted):
            raise ConfigurationError(
                f"{self.family} returned a {type(made).__name__}, not a {wanted.__name__}: with "
                "task in the study file the function takes a width and returns a network, without "
                "it takes a width and a recipe and returns a billhook.tasks.task.Task"
            )
        if isinstance(made, Task):
            return made
        return build_task(recipe, self.place.data, kind=self.kind, model=made)

    def model(self, task: Task, recipe: Recipe, width: float, device: str = "meta") -> nn.Module:
        """The network of a width to be counted; on "meta" billhook's own take no memory.

        ``task`` is one of any width, which knows what the data ask of the network.
        """
        if self.family in _WIDTHS:
            arguments = task.arguments | self.recipe(recipe, width, None).model  # type: ignore[attr-defined]
            with torch.device(device):
                model: nn.Module = getattr(models, self.family)(**arguments)
                return model
        made = self._function()(width) if self.kind else self._function()(width, recipe)
        own: nn.Module = made.model if isinstance(made, Task) else made
        return own

    def _function(self) -> Callable[..., Any]:
        target = _OWN.get(self.family, self.family)
        if ":" not in target:
            known = ", ".join((*_OWN, *_WIDTHS))
            raise ConfigurationError(
                f"no family {self.family!r}: use one of {known}, or module:function of your own"
            )
        folder = str(self.place.modules or "")
        if folder and folder not in sys.path:
            sys.path.append(folder)  # last: it must not hide an installed module
        return _named(target)


_named = functools.cache(named_function)
