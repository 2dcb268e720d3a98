"""Scores to exact masks, and masks of one bit a weight."""

import numpy as np
import torch
from torch import Tensor

from billhook.backends import native
from billhook.distributed import is_sharded, select_sharded
from billhook.errors import MaskError

__all__ = ["Mask", "is_plain", "select", "survivors"]


def is_plain(tensor: Tensor) -> bool:
    """Whether the values lie in main memory as strides say, so that native code can read them.

    A subclass may compute its values when asked, or keep them elsewhere: its pointer says nothing.
    """
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_neg()
    )


def survivors(numel: int, sparsity: float) -> int:
    """The number of weights that survive: ``round((1 - s) * n)``, Python's round.

    >>> survivors(10, 0.9), survivors(5, 0.5), survivors(7, 0.5), survivors(3, 0.0)
    (1, 2, 4, 3)
    """
    return round((1.0 - sparsity) * numel)


def select(scores: Tensor, keep: int) -> Tensor:
    """The mask of the ``keep`` largest scores; of equal scores the lower row-major index survives.

    Args:
        scores: fp32, any shape and device; a DTensor is ranked as the whole it is a part of.
        keep: how many survive, from 0 to ``scores.numel()``.

    Returns:
        A bool tensor of ``scores``' shape, True where a weight survives, with exactly ``keep``
        True entries, the same on every device and for every thread count.

    Raises:
        MaskError: if a score is NaN.

    >>> select(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    if is_sharded(scores):
        return select_sharded(scores, keep)
    scores = scores.detach().resolve_neg().contiguous()
    if keep == 0 or keep >= scores.numel():
        nans = int(scores.isnan().sum())
        mask = torch.full_like(scores, keep > 0, dtype=torch.bool)
    elif native.is_available() and native.fits(scores) and scores.dtype == torch.float32:
        nans, bits = native.select(scores, keep)
        mask = _unpack(bits, scores.shape)
    else:
        nans, mask = _select_portable(scores, keep)
    if nans:
        raise MaskError(nan_scores(nans, scores.numel()))
    return mask


def nan_scores(nans: int, numel: int) -> str:
    """What an error says of scores that are NaN."""
    return (
        f"{nans} of {numel} scores are NaN and have no rank: look for the divergence that brought "
        "them in (learning rate, loss, data)"
    )


def _select_portable(scores: Tensor, keep: int) -> tuple[int, Tensor]:
    """The number of NaN scores, and the mask if there are none; 0 < keep < scores.numel()."""
    nans = int(scores.isnan().sum())
    rank = scores.numel() - keep  # of the smallest survivor, from the smallest, counted from 0
    if is_plain(scores):  # an order of magnitude faster than torch.kthvalue
        threshold = torch.tensor(np.partition(scores.numpy().reshape(-1), rank)[rank])
    else:
        threshold = scores.flatten().kthvalue(rank + 1).values
    mask = scores > threshold
    missing = keep - int(mask.sum())
    ties = (scores == threshold).flatten().nonzero().flatten()[:missing]
    mask.view(-1)[ties] = True
    return nans, mask


class Mask:
    """A binary mask of one bit a weight: bit i % 8 of byte i // 8 is weight i in row-major order.

    >>> mask = Mask(torch.tensor([[True, False, True]]))
    >>> mask.bits, mask.kept
    (tensor([5], dtype=torch.uint8), 2)
    >>> weight = torch.tensor([[1.0, 2.0, 3.0]])
    >>> mask.zero_(weight)
    >>> weight
    tensor([[1., 0., 3.]])
    """

    def __init__(self, keep: Tensor) -> None:
        self.shape = keep.shape
        self.kept = int(keep.sum())
        self.bits = _pack(keep)

    @classmethod
    def from_bits(cls, bits: Tensor, shape: torch.Size) -> "Mask":
        """The mask that ``bits`` (uint8, ``ceil(n / 8)`` of them) hold for ``shape``."""
        if bits.dtype != torch.uint8 or bits.numel() != -(-shape.numel() // 8):
            raise MaskError(
                f"{bits.numel()} mask entries of {bits.dtype} do not fit a weight of shape "
                f"{tuple(shape)}: expected {-(-shape.numel() // 8)} of torch.uint8"
            )
        mask = cls.__new__(cls)
        mask.shape, mask.bits = shape, bits
        mask.kept = int(mask.keep().sum())
        return mask

    def keep(self) -> Tensor:
        """The mask as bools, True = kept, on the device of its bits."""
        if self.bits.device.type == "cpu":
            return _unpack(self.bits, self.shape)
        shifts = torch.arange(8, dtype=torch.uint8, device=self.bits.device)
        flat = (self.bits.unsqueeze(1) >> shifts & 1).flatten()[: self.shape.numel()]
        return flat.to(torch.bool).view(self.shape)

    def to(self, device: torch.device) -> None:
        """Move the bits."""
        self.bits = self.bits.to(device)

    def zero_(self, tensor: Tensor) -> None:
        """Write +0.0 wherever the mask is False, whatever stood there, in place."""
        if tensor.shape != self.shape:
            raise MaskError(
                f"a mask of shape {tuple(self.shape)} does not fit a tensor of shape "
                f"{tuple(tensor.shape)}"
            )
        if native.is_available() and native.fits(tensor):
            native.zero(tensor, self.bits)
        else:
            with torch.no_grad():
                tensor.masked_fill_(~self.keep(), 0.0)


def _unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    flags = np.unpackbits(bits.numpy(), count=shape.numel(), bitorder="little")
    return torch.from_numpy(flags).view(torch.bool).view(shape)


def _pack(keep: Tensor) -> Tensor:
    if keep.device.type == "cpu":
        return torch.from_numpy(np.packbits(keep.numpy(), bitorder="little"))
    flat = keep.flatten().to(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    shifts = torch.arange(8, dtype=torch.uint8, device=keep.device)
    return (padded << shifts).sum(dim=1, dtype=torch.uint8)
