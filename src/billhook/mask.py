"""Scores to exact masks, and masks of one bit a weight."""

import numpy as np
import torch
from torch import Tensor

from billhook.errors import MaskError

__all__ = ["Mask", "select", "survivors"]


def survivors(numel: int, sparsity: float) -> int:
    """The number of weights that survive: ``round((1 - s) * n)``, Python's round.

    >>> survivors(10, 0.9), survivors(5, 0.5), survivors(7, 0.5), survivors(3, 0.0)
    (1, 2, 4, 3)
    """
    return round((1.0 - sparsity) * numel)


def select(scores: Tensor, keep: int) -> Tensor:
    """The mask of the ``keep`` largest scores; of equal scores the lower row-major index survives.

    Args:
        scores: fp32, any shape and device.
        keep: how many survive, from 0 to ``scores.numel()``.

    Returns:
        A bool tensor of ``scores``' shape, True where a weight survives, with exactly ``keep``
        True entries, the same on every device and for every thread count.

    Raises:
        MaskError: if a score is NaN.

    >>> select(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    scores = scores.contiguous()
    nans = int(scores.isnan().sum())
    if nans:
        raise MaskError(f"{nans} of {scores.numel()} scores are NaN and have no rank")
    if keep >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _kth_largest(scores, keep)
    mask = scores > threshold
    missing = keep - int(mask.sum())
    ties = (scores == threshold).flatten().nonzero().flatten()[:missing]
    mask.view(-1)[ties] = True
    return mask


def _kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest of ``scores``, as a scalar tensor on the same device."""
    rank = scores.numel() - k  # from the smallest, counted from 0
    if scores.device.type == "cpu":  # an order of magnitude faster than torch.kthvalue
        flat = scores.detach().numpy().reshape(-1)
        return torch.from_numpy(np.partition(flat, rank)[rank : rank + 1])[0]
    return scores.flatten().kthvalue(rank + 1).values


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

    @property
    def sparsity(self) -> float:
        """The share of zeros, 0 for an empty tensor."""
        return 1.0 - self.kept / self.shape.numel() if self.shape.numel() else 0.0

    def keep(self) -> Tensor:
        """The mask as bools, True = kept, on the device of its bits."""
        shifts = torch.arange(8, dtype=torch.uint8, device=self.bits.device)
        flat = (self.bits.unsqueeze(1) >> shifts & 1).flatten()[: self.shape.numel()]
        return flat.to(torch.bool).view(self.shape)

    def to(self, device: torch.device) -> None:
        """Move the bits."""
        self.bits = self.bits.to(device)

    @torch.no_grad()
    def zero_(self, tensor: Tensor) -> None:
        """Write +0.0 wherever the mask is False, whatever stood there, in place."""
        if tensor.shape != self.shape:
            raise MaskError(
                f"a mask of shape {tuple(self.shape)} does not fit a tensor of shape "
                f"{tuple(tensor.shape)}"
            )
        tensor.masked_fill_(~self.keep(), 0.0)


def _pack(keep: Tensor) -> Tensor:
    flat = keep.flatten().to(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    shifts = torch.arange(8, dtype=torch.uint8, device=keep.device)
    return (padded << shifts).sum(dim=1, dtype=torch.uint8)
