"""What must hold before the first step: selected tensors in an optimizer, ranks in agreement."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from billhook.allocation import Allocation, Global
from billhook.distributed import (
    all_groups,
    check_layout,
    check_replicas,
    is_sharded,
    replica_groups,
)
from billhook.errors import ConfigurationError
from billhook.mask import survivors
from billhook.masked_weight import MaskedWeight
from billhook.schedule import Schedule
from billhook.selection import Selection

__all__ = ["attach_weights", "check_ranks"]


def attach_weights(
    model: nn.Module, selection: Selection, schedule: Schedule, optimizers: list[Optimizer]
) -> list[MaskedWeight]:
    """The selected tensors of ``model``, hooked.

    Raises:
        ConfigurationError: a trainable one is in none of the optimizers, or one is placed over the
            ranks in a way that cannot be pruned.
    """
    owned = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    for weight, target in selection.pruned:
        check_layout(weight.name, weight.parameter)
        if weight.parameter.requires_grad and id(weight.parameter) not in owned:
            raise ConfigurationError(
                f"{weight.name!r} is selected for pruning but in no parameter group of the "
                f'optimizer: pass every optimizer, or leave it dense with rules={{"{weight.name}": '
                "None}"
            )
        if survivors(weight.parameter.numel(), target) == 0:
            warnings.warn(
                f"sparsity {target:g} leaves none of the {weight.parameter.numel()} weights of "
                f"{weight.name!r}: set another one in rules",
                stacklevel=3,
            )
    return [
        MaskedWeight(
            weight,
            dataclasses.replace(schedule, final_sparsity=target),
            optimizers,
            replicas=replica_groups(weight.parameter, model),
        )
        for weight, target in selection.pruned
    ]


def check_ranks(
    model: nn.Module,
    weights: Sequence[MaskedWeight],
    configuration: Mapping[str, Any],
    allocation: Allocation,
) -> None:
    """Before the first collective on masks, see that every rank will issue the same ones.

    Raises:
        ConfigurationError: the allocation cannot work on sharded tensors.
        StateError: the ranks' pruners differ.
    """
    if isinstance(allocation, Global) and any(is_sharded(w.parameter) for w in weights):
        raise ConfigurationError(
            "Global() ranks all tensors together, which would gather the sharded ones: use "
            "Uniform() or LayerwiseConstant() with sharded models"
        )
    shapes = [(weight.name, tuple(weight.parameter.shape)) for weight in weights]
    content = repr((configuration, shapes)).encode()
    groups = dict.fromkeys(group for w in weights for group in all_groups(w.parameter, model))
    device = weights[0].part.device
    check_replicas([("the configuration of the pruner", content, tuple(groups), device)])
