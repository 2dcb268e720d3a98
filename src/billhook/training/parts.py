"""A recipe's words for the parts of a pruner."""

import re

from billhook.allocation import Allocation, ErdosRenyi, LayerwiseConstant, Uniform
from billhook.criterion import Criterion, Magnitude, Random
from billhook.global_ranking import LAMP, Global
from billhook.granularity import NM, Block, Granularity, PerRow, Rows, Unstructured
from billhook.regrowth import GradientRegrowth
from billhook.saliency import FirstOrder, Fisher, Movement, Wanda

__all__ = ["CRITERIA", "REGROWTH", "SCHEMES", "granularity_of"]

CRITERIA: dict[str, Criterion] = {
    "magnitude": Magnitude(),
    "random": Random(),
    "first-order": FirstOrder(),
    "fisher": Fisher(),
    "movement": Movement(),
    "wanda": Wanda(),
}
REGROWTH: dict[str, bool | GradientRegrowth] = {
    "value": True,
    "never": False,
    "gradient": GradientRegrowth(),
}
#: The paper's three schemes, and others.
SCHEMES: dict[str, Allocation] = {
    "standard": Uniform(),
    "layerwise": LayerwiseConstant(),
    "global": Global(),
    "lamp": LAMP(),
    "erdos-renyi": ErdosRenyi(),
    "erdos-renyi-kernel": ErdosRenyi(kernel=True),
}
_GRANULARITIES = {"unstructured": Unstructured(), "rows": Rows(), "per-row": PerRow()}


def granularity_of(word: str) -> Granularity:
    """The granularity of a recipe's word, such as ``unstructured``, ``block-8x1`` or ``nm-2x4``.

    >>> granularity_of("block-8x1")
    Block(rows=8, columns=1, pooling='sum')
    """
    match = re.fullmatch(r"(block|nm)-(\d+)x(\d+)", word)
    if match is None:
        return _GRANULARITIES[word]
    kind = Block if match[1] == "block" else NM
    return kind(int(match[2]), int(match[3]))
