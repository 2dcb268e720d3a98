"""What a pruner saves, and how it is read back: masks, values kept aside, step, configuration."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from billhook.distributed import is_sharded, part, whole
from billhook.errors import MaskError, StateError
from billhook.mask import Mask
from billhook.masked_weight import MaskedWeight
from billhook.schedule import Schedule
from billhook.selection import Selection

__all__ = ["STATE_VERSION", "configuration", "pack_weight", "read_state"]

STATE_VERSION = 2


def configuration(
    schedule: Schedule,
    parts: Mapping[str, Any],
    selection: Selection,
    weights: Iterable[MaskedWeight],
) -> dict[str, Any]:
    """What has to be the same when a state is loaded: schedules, parts and target sparsities."""
    result: dict[str, Any] = {
        "schedule": repr(schedule),
        **parts,
        "final_sparsity": {w.name: w.schedule.final_sparsity for w in weights},
    }
    if selection.schedules:
        result["schedules"] = {name: repr(own) for name, own in selection.schedules.items()}
    return result


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
        values = torch.where(weight.mask.alive(), values, weight.aside)
    return {"shape": shape, "mask": weight.alive(), "aside": whole(values, weight.parameter)}


def read_state(
    state: Mapping[str, Any],
    configuration: Mapping[str, Any],
    weights: Sequence[MaskedWeight],
    *,
    regrow: bool,
    due: Callable[[int], Mapping[str, int]],
    due_together: Callable[[int], list[tuple[list[str], int]]],
) -> list[tuple[Mask, Tensor | None]]:
    """The masks and values aside of ``state``, once all of it fits these weights.

    Args:
        state: what the user gave.
        configuration: the configuration of this pruner; the saved one must be equal.
        weights: the weights of this pruner.
        regrow: whether values are kept aside, up to the last mask update of a weight.
        due: the survivors of each weight after the updates up to a step, as far as they are known.
        due_together: the same in sum for weights that are ranked together.

    Raises:
        StateError: the message names what differs.
    """
    _check_version(state)
    _check_numbers(state)
    _check_configuration(state["configuration"], configuration)
    restored = [_read_weight(weight, state["weights"].get(weight.name)) for weight in weights]
    ends = [weight.schedule.end_step if regrow else 0 for weight in weights]
    counts = due(state["updated"]), due(state["step"])  # the later one may have been interrupted
    for weight, (mask, aside), end in zip(weights, restored, ends, strict=True):
        expected = [each[weight.name] for each in counts if weight.name in each]
        if expected and mask.kept not in expected and not is_sharded(weight.parameter):
            raise StateError(
                f"the pruner state's mask for {weight.name!r} keeps {mask.kept} weights at step "
                f"{state['step']}, the schedule {expected[0]}: the checkpoint is damaged"
            )
        returns = state["step"] < end and not weight.schedule.restarts
        if returns and aside is None and not mask.keeps_all:
            raise StateError(
                f"the pruner state of {weight.name!r} lacks the values aside, which may return up "
                f"to step {end}: the checkpoint is damaged"
            )
    if not any(is_sharded(weight.parameter) for weight in weights):
        kept = {w.name: mask.kept for w, (mask, _) in zip(weights, restored, strict=True)}
        _check_sums(state, kept, due_together)
    return [
        (mask, aside if state["step"] < end else None)
        for (mask, aside), end in zip(restored, ends, strict=True)
    ]


def _check_sums(
    state: Mapping[str, Any],
    kept: Mapping[str, int],
    due_together: Callable[[int], list[tuple[list[str], int]]],
) -> None:
    """See that weights that are ranked together have as many survivors as the schedule says."""
    sums = due_together(state["updated"]), due_together(state["step"])
    for (names, after), (_, now) in zip(*sums, strict=True):
        found = sum(kept[name] for name in names)
        if after == now != found:  # where they differ an update may have been interrupted
            raise StateError(
                f"the pruner state's masks of {len(names)} tensors that are ranked together keep "
                f"{found} weights at step {state['step']}, the schedule {after}: the checkpoint is "
                "damaged"
            )


def _check_version(state: object) -> None:
    if not isinstance(state, Mapping):
        raise StateError(
            f"this is not a pruner state but a {type(state).__name__}: save pruner.state_dict() "
            "in the checkpoint and load that"
        )
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


def _check_configuration(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = [key for key in now if saved.get(key) != now[key]]
    if differing:
        raise StateError(
            "the pruner state has another configuration: "
            + "; ".join(f"{k} was {saved.get(k)!r} and is {now[k]!r} now" for k in differing)
            + ". Make the Pruner as it was when the checkpoint was saved"
        )


def _check_numbers(state: Mapping[str, Any]) -> None:
    step, updated = state["step"], state["updated"]
    if not (type(step) is int and type(updated) is int and -1 <= updated <= step and step >= 0):
        raise StateError(
            f"the pruner state is damaged: its step is {step!r} and that of its last mask update "
            f"{updated!r}, which are to be whole numbers, the second not above the first"
        )
    for key in ("configuration", "weights"):
        if not isinstance(state[key], Mapping):
            raise StateError(f"the pruner state is damaged: its {key!r} is {state[key]!r:.60}")


def _check_entry(name: str, entry: object) -> None:
    """See that an entry has what :func:`pack_weight` writes, with values that can be read."""
    mask = entry.get("mask") if isinstance(entry, Mapping) else None
    aside = entry.get("aside") if isinstance(entry, Mapping) else None
    values = aside if isinstance(aside, (list, tuple)) else (aside,)
    sound = (
        isinstance(entry, Mapping)
        and isinstance(entry.get("shape"), Sequence)
        and isinstance(mask, Tensor)
        and len(values) <= 1
        and all(isinstance(each, Tensor) and each.is_floating_point() for each in values)
    )
    if not sound:
        raise StateError(f"the pruner state of {name!r} is damaged: load another checkpoint")
    if any(each.is_meta for each in (mask, *values)):
        raise StateError(
            f'the pruner state of {name!r} is on the device "meta" and has no values: load the '
            'checkpoint with map_location="cpu"'
        )


def _read_weight(
    weight: MaskedWeight, entry: Mapping[str, Any] | None
) -> tuple[Mask, Tensor | None]:
    shape = weight.parameter.shape
    if entry is None:
        raise StateError(
            f"the pruner state has no mask for {weight.name!r}: is it another model's?"
        )
    _check_entry(weight.name, entry)
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
        alive = part(entry["mask"])
        return Mask(alive), part(entry["aside"])[~alive]
    try:
        mask = Mask.from_bits(entry["mask"].to(weight.parameter.device, copy=True), shape)
    except MaskError as error:
        raise StateError(f"the pruner state of {weight.name!r} is damaged: {error}") from None
    aside = entry["aside"][0] if entry["aside"] else None
    if aside is not None and aside.numel() != shape.numel() - mask.kept:
        raise StateError(
            f"the pruner state keeps {aside.numel()} values aside for {weight.name!r}, its mask "
            f"has {shape.numel() - mask.kept} zeros: the checkpoint is damaged"
        )
    return mask, aside
