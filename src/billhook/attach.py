"""Checks of the model and its optimizers, before the first step and at every mask update."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from billhook.distributed import (
    all_groups,
    check_layout,
    check_replicas,
    part,
    replica_groups,
)
from billhook.errors import ConfigurationError, StateError
from billhook.masked_gradient import check_free
from billhook.masked_weight import MaskedWeight
from billhook.optimizer_hooks import with_parts
from billhook.schedule import Schedule
from billhook.selection import Selection, named_weights

__all__ = [
    "attach_weights",
    "check_model",
    "check_places",
    "check_ranks",
    "check_weights",
    "warn_of_thawed",
]


def attach_weights(
    model: nn.Module,
    selection: Selection,
    schedules: Mapping[str, Schedule],
    optimizers: list[Optimizer],
) -> list[MaskedWeight]:
    """Hook the selected tensors of ``model``, each with its schedule.

    Raises:
        ConfigurationError: a trainable tensor is in none of the optimizers, or a tensor is placed
            over the ranks in a way that cannot be pruned.
    """
    owned = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    for weight, _ in selection.pruned:
        check_layout(weight.name, weight.parameter)
        if weight.parameter.requires_grad and id(weight.parameter) not in owned:
            raise ConfigurationError(
                f"{weight.name!r} is selected for pruning but in no parameter group of the "
                f'optimizer: pass every optimizer, or leave it dense with rules={{"{weight.name}": '
                "None}"
            )
    keepers = with_parts(optimizers)
    return [
        MaskedWeight(
            weight,
            schedules[weight.name],
            keepers,
            replicas=replica_groups(weight.parameter, model),
        )
        for weight, _ in selection.pruned
    ]


def check_model(model: nn.Module) -> None:
    """Refuse wrappers that keep weights in flat buffers: each rank holds a slice of the buffer.

    Raises:
        ConfigurationError: the message names the wrapper and the one that works.
    """
    for module in model.modules():
        kind = type(module)
        if kind.__module__.partition(".")[0] == "deepspeed":
            sharding = "DeepSpeed partitions and overwrites weights in its own flat buffers"
        elif any(
            (base.__module__.partition(".")[0], base.__name__)
            in (("torch", "FullyShardedDataParallel"), ("fairscale", "FullyShardedDataParallel"))
            for base in kind.__mro__
        ):
            sharding = f"{kind.__name__} (FSDP1) cuts flat buffers, not tensors, into shards"
        else:
            continue
        raise ConfigurationError(
            f"{sharding}, and each rank would prune its own slices: shard the model with "
            "torch.distributed.fsdp.fully_shard (FSDP2), whose masks are those of one process"
        )
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise ConfigurationError(
                f"{name!r} is partitioned by DeepSpeed ZeRO: shard the model with "
                "torch.distributed.fsdp.fully_shard (FSDP2), whose masks are those of one process"
            )


def check_weights(selection: Selection) -> None:
    """Refuse weights that cannot be pruned, or that another pruner holds.

    Raises:
        ConfigurationError: one cannot hold zeros in place of its smallest values.
        StateError: another pruner holds it.
    """
    for weight, _ in selection.pruned:
        _check_weight(weight.name, weight.parameter)
        check_free(weight.name, weight.parameter)


def _check_weight(name: str, parameter: Tensor) -> None:
    dense = f"or leave it dense with rules={{{name!r}: None}}"
    if is_lazy(parameter):
        cause = "has no values yet: run one batch through the lazy module first"
    elif parameter.is_meta:
        cause = 'is on the device "meta" and has no values: load or initialise the model first'
    elif parameter.is_inference():
        cause = "was made in inference_mode and cannot be trained: make the model outside of it"
    elif parameter.is_complex():
        cause = f"is {parameter.dtype}, and complex numbers have no order: prune real weights"
    elif not parameter.is_floating_point() or parameter.itemsize < 2:
        cause = (
            f"is {parameter.dtype}: billhook prunes fp16, bf16, fp32 and fp64, before quantising"
        )
    elif parameter.layout != torch.strided:
        cause = f"has layout {parameter.layout}: make it dense with to_dense()"
    elif not _can_be_zeroed(parameter):
        cause = (
            f"is a {type(parameter).__name__}, whose values billhook cannot write in place: prune "
            "before the model is quantised or wrapped"
        )
    elif any(s == 0 and n > 1 for s, n in zip(parameter.stride(), parameter.shape, strict=True)):
        cause = "shares memory between its own elements (it was expanded): clone() it"
    else:
        return
    raise ConfigurationError(f"{name!r} is selected for pruning but {cause}, {dense}")


def _can_be_zeroed(parameter: Tensor) -> bool:
    """Whether values can be written in place; for a tensor subclass only a trial can tell."""
    local = part(parameter).detach()
    if type(local) in (Tensor, nn.Parameter):
        return True
    try:
        local.masked_fill_(torch.zeros_like(local, dtype=torch.bool), 0.0)
    except (NotImplementedError, RuntimeError, TypeError):
        return False
    return True


def check_places(model: nn.Module | None, weights: Sequence[MaskedWeight]) -> None:
    """See that no other parameter stands where a pruned one was, as in another module.

    Raises:
        StateError: one does.
    """
    if model is None:
        return
    now = {name: each.parameter for each in named_weights(model) for name in each.names}
    for weight in weights:
        if now.get(weight.name, weight.parameter) is not weight.parameter:
            raise StateError(
                f"{weight.name!r} is no longer the parameter this pruner was attached to: its "
                "module was replaced by another one, which nothing prunes; copy weights into the "
                "old module, or detach() and attach a new Pruner"
            )


def warn_of_thawed(selection: Selection) -> None:
    """Warn of weight matrices that were left dense because they were frozen, and train now."""
    thawed = [
        weight.name
        for weight, reason in selection.dense
        if reason == "frozen" and weight.parameter.requires_grad
    ]
    if thawed:
        more = f" and {len(thawed) - 1} more tensors" if thawed[1:] else ""
        warnings.warn(
            f"{thawed[0]!r}{more} were frozen when the Pruner attached and so stay dense, but are "
            "trained now: name them in rules to prune them, or set them to None there",
            stacklevel=3,
        )


def check_ranks(
    model: nn.Module,
    weights: Sequence[MaskedWeight],
    configuration: Mapping[str, Any],
) -> None:
    """Before the first collective on masks, check that all ranks will issue the same ones.

    Raises:
        StateError: the ranks' pruners differ.
    """
    shapes = [(weight.name, tuple(weight.parameter.shape)) for weight in weights]
    content = repr((configuration, shapes)).encode()
    groups = dict.fromkeys(group for w in weights for group in all_groups(w.parameter, model))
    device = weights[0].part.device
    check_replicas([("the configuration of the pruner", content, tuple(groups), device)])
