"""Masks by torch's own operations: any device, layout and kind of tensor, and no synchronisation.

The host never asks the device anything here: how many weights survive is known beforehand, and
whether a score is NaN stays on the device (:mod:`billhook.backends.nans`). Masks are bools of the
tensor's own layout, True = masked.
"""

import torch
from torch import Tensor

__all__ = [
    "complete",
    "new_bits",
    "pack",
    "pinned",
    "select",
    "there",
    "unpack",
    "unpack_masked",
    "zero",
]


def select(scores: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The number of NaN scores, on their device, and the mask (True = kept) if it is 0.

    ``torch.topk`` finds the threshold, on many blocks of a GPU where ``kthvalue`` has one; of those
    equal to it the first in row-major order survive, which a cumulative sum counts.
    """
    flat = scores.detach().contiguous().flatten()
    count, nans = flat.numel(), flat.isnan().sum()
    if kept == 0 or kept >= count:
        return nans, torch.full_like(scores, kept > 0, dtype=torch.bool)
    if 2 * kept <= count:
        threshold = flat.topk(kept, sorted=False).values.amin()
    else:  # the largest of the count - kept + 1 smallest
        threshold = flat.topk(count - kept + 1, largest=False, sorted=False).values.amax()
    above, tie = flat > threshold, flat == threshold
    missing = kept - above.sum()
    order = torch.int32 if count <= torch.iinfo(torch.int32).max else torch.int64
    mask = above | (tie & (tie.cumsum(0, dtype=order) <= missing))
    return nans, mask.view(scores.shape)


def zero(tensor: Tensor, masked: Tensor) -> None:
    """Write +0.0 at masked places, whatever stood there: one kernel."""
    with torch.no_grad():
        tensor.masked_fill_(masked, 0.0)


@torch.no_grad()
def complete(weight: Tensor, aside: Tensor, masked: Tensor) -> None:
    """Write the kept weights into ``aside``, which holds the masked ones: it is the raw weight."""
    torch.where(masked, aside, weight, out=aside)


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """The values in memory from which ``device`` can copy while the host goes on."""
    return values.pin_memory() if device.type == "cuda" else values


def there(values: Tensor, device: torch.device) -> Tensor:
    """The values on ``device``; nobody waits for the copy."""
    if device.type == "cpu":
        return values
    copy = torch.empty(values.shape, dtype=values.dtype, device=device)
    return copy.copy_(pinned(values, device), non_blocking=True)


def new_bits(count: int, device: torch.device) -> Tensor:
    """The bits of a mask that keeps all, uint8, in room for whole int32 words."""
    words = torch.full((-(-count // 32),), -1, dtype=torch.int32, device=device)
    bits = words.view(torch.uint8)[: -(-count // 8)]
    if count % 8:
        bits[-1:].fill_((1 << count % 8) - 1)
    return bits


def pack(alive: Tensor) -> Tensor:
    """The bits of a mask (True = kept) as uint8 in row-major order: bit i % 8 of byte i // 8."""
    flat = alive.flatten().view(torch.uint8)
    if missing := -flat.numel() % 8:
        flat = torch.nn.functional.pad(flat, (0, missing))
    shifts = torch.arange(8, dtype=torch.uint8, device=alive.device)
    return (flat.view(-1, 8) << shifts).sum(dim=1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """The bools of ``pack``'s bits."""
    return _single_bits(bits, shape) != 0


def unpack_masked(bits: Tensor, shape: torch.Size) -> Tensor:
    """The opposite: True where the bit is 0."""
    return _single_bits(bits, shape) == 0


def _single_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(1) >> shifts & 1).flatten()[: shape.numel()].view(shape)
