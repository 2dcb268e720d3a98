"""The optimizer of a recipe."""

import fnmatch

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.tasks.recipe import Recipe

__all__ = ["build_optimizer"]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer: decays matrices and kernels except those ``undecayed`` matches.

    Raises:
        ConfigurationError: an ``undecayed`` glob that matches no parameter.
    """
    section = recipe.optimizer
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    unused = set(section.undecayed)
    for name, parameter in model.named_parameters():
        globs = [glob for glob in section.undecayed if fnmatch.fnmatchcase(name, glob)]
        unused.difference_update(globs)
        (spared if globs or parameter.ndim < 2 else decayed).append(parameter)
    if unused:
        raise ConfigurationError(
            f"optimizer.undecayed: {sorted(unused)[0]!r} matches no parameter of the model"
        )
    groups = [
        {"params": decayed, "weight_decay": section.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    kind = getattr(torch.optim, section.kind)
    optimizer: torch.optim.Optimizer = kind(groups, lr=section.lr, **section.arguments)
    return optimizer
