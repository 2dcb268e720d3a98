"""Every family is whole: recipes, a width that scales it, rules, and the names commands show."""

from typing import Any

import pytest
import torch
from torch import nn

from billhook.cli.options import FAMILIES as COMMANDS
from billhook.selection import select_weights
from billhook.tasks.families import FAMILIES, Family
from billhook.tasks.recipe import load_recipe

SMALL: dict[str, dict[str, Any]] = {
    "classification": {"num_classes": 10},
    "language": {"vocab": 30},
    "translation": {"source_vocab": 30, "target_vocab": 30},
}


def network(family: Family, width: float) -> nn.Module:
    with torch.device("meta"):
        return family.build(**SMALL[family.kind], **family.arguments(width))


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_commands_name_the_families() -> None:
    assert tuple(FAMILIES) == COMMANDS


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_family_is_whole(family: Family) -> None:
    assert FAMILIES[family.name] is family
    assert family.width in family.options
    low, high = (0.5, 1.0) if family.width_step < 1 else (16, 32)
    small, large = network(family, low), network(family, high)
    assert weights(small) < weights(large)
    rules = getattr(small, "prune_rules", None)
    assert rules is not None
    assert select_weights(small, rules, 0.5).pruned
    for name in ("laptop", "paper"):
        recipe = load_recipe(family.name, name)
        assert recipe.family == family.name
        assert ("dropout" in recipe.model) <= family.dropout
    if family.dropout:
        family.build(**SMALL[family.kind], **family.arguments(low), dropout=0.1)
    has_lstm = any(isinstance(module, nn.LSTM) for module in small.modules())
    assert has_lstm == family.recurrent
