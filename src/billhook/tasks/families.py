"""The model families that come with recipes: what a study, a recipe and a command need to know.

To add a family: its network in ``billhook/models``, with ``prune_rules``; one entry here; its
recipes as ``recipes/NAME.laptop.toml`` and so on; and, if it was published, its numbers in
``billhook/study/published.toml``. ``tests/tasks/test_families.py`` holds it to what the others are
held to.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from billhook import models

__all__ = ["FAMILIES", "Family"]

Kind = Literal["classification", "language", "translation"]


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of one kind at any width.

    Args:
        name: in recipes, study files and commands.
        build: the network from keyword arguments, which are a recipe's ``[model]``.
        kind: what it learns; decides task and data.
        width: the argument that makes it wider.
        width_step: widths are whole multiples of this.
        options: the arguments that ``billhook train`` can set.
        replaced: the arguments that a width takes the place of, with what they are then.
        recurrent: it has LSTMs, for which some devices have no bfloat16.
        dropout: it has an argument ``dropout``.
    """

    name: str
    build: Callable[..., nn.Module]
    kind: Kind
    width: str
    width_step: float
    options: tuple[str, ...]
    replaced: Mapping[str, None] = dataclasses.field(default_factory=dict)
    recurrent: bool = False
    dropout: bool = False

    def arguments(self, width: float) -> dict[str, Any]:
        """The arguments of a width.

        >>> FAMILIES["ptb_lstm"].arguments(200.0)
        {'size': None, 'hidden': 200}
        """
        value = int(width) if self.width_step == 1.0 else width
        return {**self.replaced, self.width: value}


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="mobilenet_v1",
            build=models.mobilenet_v1,
            kind="classification",
            width="width",
            width_step=0.01,
            options=("width",),
        ),
        Family(
            name="inception_v3",
            build=models.inception_v3,
            kind="classification",
            width="depth_multiplier",
            width_step=0.01,
            options=("depth_multiplier",),
        ),
        Family(
            name="ptb_lstm",
            build=models.ptb_lstm,
            kind="language",
            width="hidden",
            width_step=1.0,
            options=("size", "hidden"),
            replaced={"size": None},
            recurrent=True,
            dropout=True,
        ),
        Family(
            name="gnmt",
            build=models.gnmt,
            kind="translation",
            width="units",
            width_step=1.0,
            options=("units",),
            recurrent=True,
            dropout=True,
        ),
    )
}
