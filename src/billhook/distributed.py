"""The same masks on every rank, and the exact masks of sharded tensors without a gather.

Replicas (DistributedDataParallel, and FSDP's replicated mesh dimensions) draw their masks from
equal weights, so they agree without communication, and digests check that they do. Shards (FSDP2
and tensor parallelism, as DTensors) exchange histograms (:mod:`billhook.sharded`). Every rank
issues the same collectives in the same order.

"Part" is what a rank holds of a tensor: all of it, unless it is a DTensor.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
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
    "reader_of_parts",
    "region",
    "replica_groups",
    "row_major_strides",
    "shard_groups",
    "total",
    "whole",
]

_Tensors = Sequence[Tensor | None]


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether ``tensor`` is a DTensor; does not import that module, which takes seconds."""
    if type(tensor) in (nn.Parameter, Tensor):  # asked for every tensor of every step
        return False
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


def reader_of_parts(parameters: Iterable[Tensor | None]) -> Callable[[_Tensors], _Tensors]:
    """A function that gives what this rank holds of each of these parameters, or their gradients.

    It costs nothing where none is a DTensor: then it gives them back.
    """
    if not any(each is not None and is_sharded(each) for each in parameters):
        return lambda tensors: tensors

    @torch.no_grad()
    def parts(tensors: _Tensors) -> _Tensors:
        return [None if each is None else part(each) for each in tensors]

    return parts


def whole(local: Tensor, like: Tensor) -> Tensor:
    """The tensor laid out as ``like``, given this rank's part of it."""
    if not is_sharded(like):
        return local
    return type(like).from_local(
        local,
        like.device_mesh,
        like.placements,
        shape=like.shape,
        stride=row_major_strides(like.shape),
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
    for dim, (start, size) in enumerate(region(like)):
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
        chunk = tuple(size for _, size in region(parameter))
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
    counts = torch.tensor([count], device=part(tensor).device)
    for group in shard_groups(tensor):
        distributed.all_reduce(counts, group=group)
    return int(counts)


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


def shard_groups(tensor: "DTensor") -> tuple["ProcessGroup", ...]:
    """The groups of ranks whose parts make up ``tensor``, one for each way in which it is split."""
    return tuple(
        tensor.device_mesh.get_group(dim)
        for dim, placement in enumerate(tensor.placements)
        if placement.is_shard()
    )


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


def region(tensor: "DTensor") -> list[tuple[int, int]]:
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


def row_major_strides(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[dim + 1 :].numel() for dim in range(len(shape)))


def _list(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
