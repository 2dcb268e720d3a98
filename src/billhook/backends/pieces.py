"""How tensors of a device are cut for kernels, and the room that kernels of an update share."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from billhook.backends import portable

__all__ = ["Pieces", "Room", "cut", "make_room"]


@dataclasses.dataclass(frozen=True)
class Pieces:
    """How tensors of certain sizes are cut, and room for what kernels hand to each other."""

    count: int
    tensors: int
    numel: Tensor
    slot: Tensor
    start: Tensor
    first: Tensor  # the first piece of each tensor, and one more


@dataclasses.dataclass(frozen=True)
class Room:
    """What the kernels of an update hand to each other, and the new bits of every tensor."""

    found: Tensor
    rank: Tensor
    ties: Tensor
    nans: Tensor
    counts: Tensor
    before: Tensor
    fresh: list[Tensor]


def cut(sizes: Sequence[int], piece: int, device: torch.device) -> Pieces:
    """Cut tensors of these sizes into pieces of ``piece`` elements."""
    slots, starts, first = [], [], [0]
    for index, size in enumerate(sizes):
        pieces = -(-size // piece)
        slots.append(torch.full((pieces,), index, dtype=torch.int32))
        starts.append(torch.arange(pieces, dtype=torch.int32) * piece)
        first.append(first[-1] + pieces)
    return Pieces(
        count=first[-1],
        tensors=len(sizes),
        numel=portable.there(torch.tensor(sizes, dtype=torch.int32), device),
        slot=portable.there(torch.cat(slots), device),
        start=portable.there(torch.cat(starts), device),
        first=portable.there(torch.tensor(first, dtype=torch.int64), device),
    )


def make_room(pieces: Pieces, sizes: Sequence[int], bins: int, device: torch.device) -> Room:
    """Room for an update of tensors of these sizes, and for ``bins`` counts of each."""

    def room(length: int) -> Tensor:
        return torch.zeros(length, dtype=torch.int32, device=device)

    words = [-(-size // 32) for size in sizes]
    fresh = room(sum(words)).split(words)
    return Room(
        found=room(pieces.tensors),
        rank=room(pieces.tensors),
        ties=room(pieces.tensors),
        nans=room(pieces.tensors),
        counts=room(pieces.tensors * bins),
        before=room(pieces.count),
        fresh=[w.view(torch.uint8)[: -(-n // 8)] for w, n in zip(fresh, sizes, strict=True)],
    )
