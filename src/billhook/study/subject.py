"""What a study trains: a task at any width, of one of billhook's families or of the user's own."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.named_model import named_function
from billhook.tasks.build import build_task, facts, synthetic_task
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import Task

__all__ = ["Place", "Subject"]

_OWN = {"digits": "billhook.tasks.digits:digits"}


@dataclass(frozen=True)
class Place:
    """Where this machine has the data and the user's own module, and the device that trains, as for
    ``billhook train --device``: no part of any identity."""

    data: Path | None = None
    modules: Path | None = None
    device: str = "auto"


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
        return FAMILIES[self.family].width_step if self.family in FAMILIES else 1.0

    def recipe(self, recipe: Recipe, width: float, dropout: float | None) -> Recipe:
        """``recipe`` for that width and dropout, where they are arguments of a billhook family."""
        changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
        if self.family in FAMILIES:
            changes |= FAMILIES[self.family].arguments(width)
        return recipe.changed(model=changes) if changes else recipe

    def task(self, recipe: Recipe, width: float) -> Task:
        """The task at that width, its weights drawn from torch's global generator.

        Raises:
            ConfigurationError: no such family, or a function that returns something else.
        """
        if self.family in FAMILIES:
            if self.dry:
                return synthetic_task(recipe.changed(training={"batch_size": 2}))
            return build_task(self.recipe(recipe, width, None), self.place.data)
        made = self._made(recipe, width)
        if isinstance(made, Task):
            return made
        return build_task(recipe, self.place.data, kind=self.kind, model=made)

    def model(self, task: Task, recipe: Recipe, width: float, device: str = "meta") -> nn.Module:
        """The network of a width to be counted; on "meta" billhook's own take no memory.

        ``task`` is one of any width, which knows what the data ask of the network.
        """
        if self.family in FAMILIES:
            arguments = task.arguments | self.recipe(recipe, width, None).model  # type: ignore[attr-defined]
            with torch.device(device):
                return FAMILIES[self.family].build(**arguments)
        made = self._made(recipe, width)
        return made.model if isinstance(made, Task) else made

    def _made(self, recipe: Recipe, width: float) -> nn.Module | Task:
        """What the user's own function returns for a width."""
        function = self._function()
        if self.kind:
            made = _call(function, width, facts(self.kind, recipe, self.place.data), self.family)
        else:
            made = function(width, recipe)
        wanted = nn.Module if self.kind else Task
        if not isinstance(made, wanted):
            raise ConfigurationError(
                f"{self.family} returned a {type(made).__name__}, not a {wanted.__name__}: with "
                "task in the study file the function takes a width and returns a network, without "
                "it takes a width and a recipe and returns a billhook.tasks.task.Task"
            )
        return made

    def _function(self) -> Callable[..., Any]:
        target = _OWN.get(self.family, self.family)
        if ":" not in target:
            known = ", ".join((*_OWN, *FAMILIES))
            raise ConfigurationError(
                f"no family {self.family!r}: use one of {known}, or module:function of your own"
            )
        folder = str(self.place.modules or "")
        if folder and folder not in sys.path:
            sys.path.append(folder)  # last: it must not hide an installed module
        return _named(target)


_named = functools.cache(named_function)


def _call(function: Callable[..., Any], width: float, known: dict[str, int], name: str) -> Any:
    """``function`` of a width, and of those of the known facts that its arguments name.

    Raises:
        ConfigurationError: it needs something else.
    """
    _, *others = inspect.signature(function).parameters.values()
    wanted = [p.name for p in others if p.name in known]
    for parameter in others:
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and parameter.name not in known:
            raise ConfigurationError(
                f"{name} needs an argument {parameter.name!r}: beside the width it can ask for "
                f"{', '.join(known)}, by these names; give others a default"
            )
    return function(width, **{each: known[each] for each in wanted})
