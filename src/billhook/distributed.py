"""The same masks on every rank, and the exact masks of sharded tensors without a gather.

Replicas (DistributedDataParallel, and FSDP's replicated mesh dimensions) draw their masks from
equal weights, so they agree without communication, and digests check that they do. Shards (FSDP2
and tensor parallelism, as DTensors) exchange histograms of :data:`DIGIT` bits of the scores: a few
of 16 KiB for each tensor, however large it is. Every rank issues the same collectives in the same
order.

"Part" is what a rank holds of a tensor: all of it, unless it is a DTensor.
"""

import sys
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, distributed, nn

from billhook import torch_private
from billhook.errors import ConfigurationError, MaskError, StateError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

__all__ = [
    "after_reduction",
    "all_groups",
    "check_layout",
    "check_replicas",
    "gathered",
    "is_first_rank",
    "is_sharded",
    "is_zero",
    "mean_over",
    "part",
    "part_like",
    "replica_groups",
    "select_sharded",
    "total",
    "whole",
]

#: Bits of a score, or of an index, that one histogram resolves.
DIGIT = 11


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether ``tensor`` is a DTensor; does not import that module, which takes seconds."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_first_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )


def part(tensor: Tensor) -> Tensor:
    """What this rank holds of ``tensor``, sharing its memory."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def whole(local: Tensor, like: Tensor) -> Tensor:
    """The tensor laid out as ``like``, given this rank's part of it."""
    if not is_sharded(like):
        return local
    return type(like).from_local(
        local, like.device_mesh, like.placements, shape=like.shape, stride=_strides(like.shape)
    )


def gathered(tensor: Tensor) -> Tensor:
    """All of ``tensor`` on every rank. A collective if it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, given whole on every rank or already laid out as ``like``, in ``like``'s layout.

    Raises:
        MaskError: it has another shape or another layout.
    """
    if tensor.shape != like.shape:
        raise MaskError(
            f"a tensor of shape {tuple(tensor.shape)} was returned for a weight of shape "
            f"{tuple(like.shape)}: criterion and granularity must keep the shape"
        )
    if not is_sharded(like) or (is_sharded(tensor) and tensor.placements == like.placements):
        return tensor
    if is_sharded(tensor):
        raise MaskError(
            f"a tensor placed as {tensor.placements} was returned for a weight placed as "
            f"{like.placements}: criterion and granularity must keep the placement"
        )
    for dim, (start, size) in enumerate(_region(like)):
        tensor = tensor.narrow(dim, start, size)
    return whole(tensor.contiguous(), like)


def check_layout(name: str, parameter: Tensor) -> None:
    """Refuse placements whose parts are not rectangular chunks of the tensor.

    Raises:
        ConfigurationError: the message names tensor and placements.
    """
    if not is_sharded(parameter):
        return
    from torch.distributed.tensor import Replicate, Shard

    if all(type(placement) in (Shard, Replicate) for placement in parameter.placements):
        chunk = tuple(size for _, size in _region(parameter))
        if not total(int(part(parameter).shape != chunk), parameter):  # on no rank
            return
    raise ConfigurationError(
        f"{name!r} is placed as {parameter.placements} over a mesh of {parameter.device_mesh.shape}"
        f", this rank holding {tuple(part(parameter).shape)} of {tuple(parameter.shape)}: billhook "
        "prunes Shard and Replicate placements split as torch.chunk does; leave this tensor dense "
        f"with rules={{{name!r}: None}}"
    )


def total(count: int, tensor: Tensor) -> int:
    """The sum of ``count`` over the parts of ``tensor``. A collective if it is sharded."""
    if not is_sharded(tensor):
        return count
    return int(_sum_over_shards(torch.tensor([count], device=part(tensor).device), tensor))


def mean_over(tensor: Tensor, groups: tuple["ProcessGroup", ...]) -> Tensor:
    """The mean of the ranks' tensors. A collective if there are groups."""
    for group in groups:
        tensor = tensor.clone()
        distributed.all_reduce(tensor, group=group)
        tensor = tensor / group.size()
    return tensor


def is_zero(tensor: Tensor) -> bool:
    """Whether every element is 0. A collective if it is sharded."""
    local = part(tensor)
    values = local.coalesce().values() if local.is_sparse else local
    return not total(int(values.count_nonzero()), tensor)


def select_sharded(scores: "DTensor", keep: int) -> Tensor:
    """:func:`billhook.mask.select` on a sharded tensor: the same mask as on the whole one.

    A radix select over the bit pattern of the fp32 scores finds the threshold: per digit, the
    ranks' counts are added up. Where the threshold cuts through equal scores, a second one over
    their row-major indices in the whole tensor finds the last that survives, so the split of the
    tensor over the ranks makes no difference.

    Raises:
        MaskError: a score is NaN, on any rank.
    """
    local = part(scores).to(torch.float32)
    nans = total(int(local.isnan().sum()), scores)
    if nans:
        raise MaskError(f"{nans} of {scores.numel()} scores are NaN and cannot be ranked")
    if keep == 0 or keep >= scores.numel():
        return whole(torch.full_like(local, keep > 0, dtype=torch.bool), scores)
    order = _descending(local)
    lowest = torch.iinfo(torch.int32).min
    bound, among, ties = _kth_smallest(order ^ lowest, keep, 32, scores)
    mask = order < bound + lowest
    places = (order == bound + lowest).nonzero()
    if among < ties:
        index = _row_major(places, scores)
        last, _, _ = _kth_smallest(index, among, scores.numel().bit_length(), scores)
        places = places[index <= last]
    mask[places.unbind(1)] = True
    return whole(mask, scores)


def replica_groups(parameter: Tensor, model: nn.Module) -> tuple["ProcessGroup", ...]:
    """The groups of ranks that hold the same part of ``parameter`` as this one."""
    if is_sharded(parameter):
        mesh = parameter.device_mesh
        dims = [dim for dim, place in enumerate(parameter.placements) if place.is_replicate()]
        return tuple(mesh.get_group(dim) for dim in dims)
    return tuple(
        module.process_group
        for module in model.modules()
        if isinstance(module, nn.parallel.DistributedDataParallel)
        and any(parameter is each for each in module.parameters())
    )


def all_groups(parameter: Tensor, model: nn.Module) -> tuple["ProcessGroup", ...]:
    """The groups of ranks that hold the same part of ``parameter`` or another one."""
    if is_sharded(parameter):
        mesh = parameter.device_mesh
        return tuple(mesh.get_group(dim) for dim in range(mesh.ndim))
    return replica_groups(parameter, model)


def check_replicas(
    contents: Iterable[tuple[str, bytes, tuple["ProcessGroup", ...], torch.device]],
) -> None:
    """Check that all ranks of a group hold equal contents: (what, content, groups, device) of each.

    Raises:
        StateError: on every rank of the group; the message names what differs and where.
    """
    by_group: dict[ProcessGroup, list[tuple[str, int, torch.device]]] = {}
    for what, content, groups, device in contents:
        for group in groups:
            by_group.setdefault(group, []).append((what, zlib.crc32(content), device))
    for group, entries in by_group.items():
        local = torch.tensor([digest for _, digest, _ in entries], device=entries[0][2])
        by_rank = [torch.empty_like(local) for _ in range(group.size())]
        distributed.all_gather(by_rank, local, group=group)
        ranks = distributed.get_process_group_ranks(group)
        for (what, _, _), digests in zip(entries, torch.stack(by_rank, 1).tolist(), strict=True):
            others = [r for r, d in zip(ranks, digests, strict=True) if d != digests[0]]
            if others:
                raise StateError(
                    f"{what} differs between ranks: not the same on {_list(others)} as on rank "
                    f"{ranks[0]}. Start all ranks from the same weights and load the same "
                    "checkpoint on each"
                )


def after_reduction(callback: Callable[[], None]) -> None:
    """Called from a gradient hook: call back at the end of this backward pass, after DDP's reducer.

    The reducer queues its own callback, which writes the averaged gradients back, when the last
    gradient is ready; ``callback`` is therefore queued by a callback of that queue.
    """
    call = torch_private.call_after_backward
    call(lambda: call(callback))


def _descending(scores: Tensor) -> Tensor:
    """Integers (int32) in the order of ``-scores``; +0.0 and -0.0 are equal."""
    bits = (scores + 0.0).view(torch.int32)
    return ~(bits ^ (bits >> 31 & 0x7FFFFFFF))


def _kth_smallest(keys: Tensor, k: int, bits: int, like: "DTensor") -> tuple[int, int, int]:
    """The k-th smallest (from 1) of the keys on all shards, as unsigned numbers of ``bits`` bits.

    Returns:
        The key, how many of its equals are among the k smallest, and how many equals it has.
    """
    found, ties = 0, 0
    keys = keys.flatten()
    for shift in reversed(range(0, bits, DIGIT)):
        digits = keys >> shift & (1 << min(DIGIT, bits - shift)) - 1
        counts = _sum_over_shards(torch.bincount(digits, minlength=1 << DIGIT), like)
        upto = counts.cumsum(0)
        digit = int(torch.searchsorted(upto, k))
        ties = int(counts[digit])
        k -= int(upto[digit]) - ties
        found = found << DIGIT | digit
        keys = keys[digits == digit]
    return found, k, ties


def _sum_over_shards(counts: Tensor, like: "DTensor") -> Tensor:
    for dim, placement in enumerate(like.placements):
        if placement.is_shard():
            distributed.all_reduce(counts, group=like.device_mesh.get_group(dim))
    return counts


def _region(tensor: "DTensor") -> list[tuple[int, int]]:
    """(start, size) of this rank's part along each dimension of the whole tensor."""
    region = [(0, size) for size in tensor.shape]
    for dim, placement in enumerate(tensor.placements):
        if placement.is_shard():
            axis = placement.dim  # type: ignore[attr-defined]
            start, size = region[axis]
            chunk = -(-size // tensor.device_mesh.size(dim))
            skipped = min(size, chunk * tensor.device_mesh.get_local_rank(dim))
            region[axis] = (start + skipped, min(chunk, size - skipped))
    return region


def _row_major(places: Tensor, tensor: "DTensor") -> Tensor:
    """The indices in the whole tensor of ``places`` (one row of coordinates each) in this part."""
    starts = torch.tensor([start for start, _ in _region(tensor)], device=places.device)
    strides = torch.tensor(_strides(tensor.shape), device=places.device)
    return ((places + starts) * strides).sum(1)


def _strides(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[dim + 1 :].numel() for dim in range(len(shape)))


def _list(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
