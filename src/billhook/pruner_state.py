"""What a pruner saves, and how it is read back: masks, values kept aside, step, configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from billhook.distributed import is_sharded, part, whole
from billhook.errors import StateError
from billhook.mask import Mask
from billhook.masked_weight import MaskedWeight

__all__ = ["STATE_VERSION", "pack_weight", "read_state"]

STATE_VERSION = 2


def pack_weight(weight: MaskedWeight) -> dict[str, Any]:
    """One weight's entry.

    The values aside are a tuple of at most one tensor, because their number changes during a run:
    torch.distributed.checkpoint loads a tensor into the one of the same size in a fresh pruner's
    state, and a tuple as it is. For a sharded weight, mask and values are DTensors of the weight's
    shape and placement, which it can load over another number of ranks too.
    """
    shape = list(weight.parameter.shape)
    if not is_sharded(weight.parameter):
        values = weight.packed_aside()
        aside = () if values is None else (values,)
        return {"shape": shape, "mask": weight.mask.bits.clone(), "aside": aside}
    values = torch.zeros_like(weight.part)
    if weight.aside is not None:
        values = torch.where(weight.mask.keep(), values, weight.aside)
    return {"shape": shape, "mask": weight.keep(), "aside": whole(values, weight.parameter)}


def read_state(
    state: Mapping[str, Any],
    configuration: Mapping[str, Any],
    weights: Sequence[MaskedWeight],
    regrow: bool,
) -> list[tuple[Mask, Tensor | None]]:
    """The masks and values aside of ``state``, once all of it fits these weights.

    Args:
        state: what the user gave.
        configuration: the configuration of this pruner; the saved one must be equal.
        weights: the weights of this pruner.
        regrow: whether values are kept aside, up to the last mask update of a weight.

    Raises:
        StateError: the message names what differs.
    """
    missing = {"version", "step", "updated", "configuration", "weights"} - set(state)
    if missing:
        raise StateError(
            f"this is not a pruner state, it lacks {', '.join(sorted(missing))}: save "
            "pruner.state_dict() in the checkpoint and load that"
        )
    if state["version"] != STATE_VERSION:
        raise StateError(
            f"the pruner state has version {state['version']}, this billhook reads version "
            f"{STATE_VERSION}: load it with the billhook that wrote it"
        )
    saved = state["configuration"]
    differing = [key for key in configuration if saved.get(key) != configuration[key]]
    if differing:
        raise StateError(
            "the pruner state has another configuration: "
            + "; ".join(
                f"{k} was {saved.get(k)!r} and is {configuration[k]!r} now" for k in differing
            )
            + ". Make the Pruner as it was when the checkpoint was saved"
        )
    restored = [_read_weight(weight, state["weights"].get(weight.name)) for weight in weights]
    ends = [weight.schedule.end_step if regrow else 0 for weight in weights]
    return [
        (mask, aside if state["step"] < end else None)
        for (mask, aside), end in zip(restored, ends, strict=True)
    ]


def _read_weight(
    weight: MaskedWeight, entry: Mapping[str, Any] | None
) -> tuple[Mask, Tensor | None]:
    shape = weight.parameter.shape
    if entry is None:
        raise StateError(
            f"the pruner state has no mask for {weight.name!r}: is it another model's?"
        )
    if tuple(entry["shape"]) != tuple(shape):
        raise StateError(
            f"the pruner state's mask for {weight.name!r} has shape {tuple(entry['shape'])}, the "
            f"weight {tuple(shape)}: is it another model's?"
        )
    if is_sharded(weight.parameter) != is_sharded(entry["mask"]):
        kinds = "whole", "sharded"
        raise StateError(
            f"the pruner state of {weight.name!r} is {kinds[is_sharded(entry['mask'])]}, the "
            f"weight is {kinds[is_sharded(weight.parameter)]}: shard the model as it was when the "
            "checkpoint was saved"
        )
    if is_sharded(entry["mask"]):
        keep = part(entry["mask"])
        return Mask(keep), part(entry["aside"])[~keep]
    mask = Mask.from_bits(entry["mask"].to(weight.parameter.device, copy=True), shape)
    aside = entry["aside"][0] if entry["aside"] else None
    if aside is not None and aside.numel() != shape.numel() - mask.kept:
        raise StateError(
            f"the pruner state keeps {aside.numel()} values aside for {weight.name!r}, its mask "
            f"has {shape.numel() - mask.kept} zeros: the checkpoint is damaged"
        )
    return mask, aside
