"""Scores to exact masks, and masks of one bit per weight."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from billhook.backends import native, portable
from billhook.backends.nans import nan_scores
from billhook.backends.triton import is_capturing
from billhook.distributed import is_sharded
from billhook.errors import MaskError
from billhook.sharded import select_together

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


def select(scores: Tensor, kept: int) -> Tensor:
    """The mask of the ``kept`` largest scores; of equal scores the lower row-major index survives.

    Args:
        scores: fp32, any shape and device; a DTensor is ranked as the whole it is a part of.
        kept: how many survive, from 0 to ``scores.numel()``.

    Returns:
        A bool tensor of ``scores``' shape, True where a weight survives, with exactly ``kept``
        True entries, the same on every device and for every thread count.

    Raises:
        MaskError: if a score is NaN.

    >>> select(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    if is_sharded(scores):
        (nans,), (mask,) = select_together([scores], [kept])
        if nans:
            raise MaskError(nan_scores(nans, scores.numel()))
        return mask
    scores = scores.detach().resolve_neg().contiguous()
    if kept == 0 or kept >= scores.numel():
        nans = int(scores.isnan().sum())
        mask = torch.full_like(scores, kept > 0, dtype=torch.bool)
    elif native.is_available() and native.fits(scores) and scores.dtype == torch.float32:
        nans, bits = native.select(scores, kept)
        mask = _unpack(bits, scores.shape)
    elif is_plain(scores):
        nans, mask = _select_by_partition(scores, kept)
    else:
        nans_there, mask = portable.select(scores, kept)
        nans = int(nans_there)
    if nans:
        raise MaskError(nan_scores(nans, scores.numel()))
    return mask


def _select_by_partition(scores: Tensor, kept: int) -> tuple[int, Tensor]:
    """The number of NaN scores, and the mask if there are none; 0 < kept < scores.numel()."""
    nans = int(scores.isnan().sum())
    rank = scores.numel() - kept  # of the smallest survivor, from the smallest, counted from 0
    threshold = torch.tensor(np.partition(scores.numpy().reshape(-1), rank)[rank])
    mask = scores > threshold
    missing = kept - int(mask.sum())
    ties = (scores == threshold).flatten().nonzero().flatten()[:missing]
    mask.view(-1)[ties] = True
    return nans, mask


class Mask:
    """A binary mask of one bit per weight: bit i % 8 of byte i // 8 is weight i in row-major order.

    >>> mask = Mask(torch.tensor([[True, False, True]]))
    >>> mask.bits, mask.kept
    (tensor([5], dtype=torch.uint8), 2)
    >>> weight = torch.tensor([[1.0, 2.0, 3.0]])
    >>> mask.zero_(weight)
    >>> weight
    tensor([[1., 0., 3.]])
    """

    #: How often any mask was changed or moved: what was made of masks holds until then.
    changes: ClassVar[int] = 0

    def __init__(self, alive: Tensor, kept: int | None = None) -> None:
        self.shape = alive.shape
        self.kept = int(alive.sum()) if kept is None else kept
        self.bits = _pack(alive)
        self._masked: Tensor | None = None  # as bools, of a mask in force

    @classmethod
    def of_all(cls, tensor: Tensor) -> "Mask":
        """The mask that keeps every element of ``tensor``."""
        bits = portable.new_bits(tensor.numel(), tensor.device)
        return cls._make(bits, tensor.shape, tensor.numel())

    @classmethod
    def from_bits(cls, bits: Tensor, shape: torch.Size, kept: int | None = None) -> "Mask":
        """The mask that ``bits`` (uint8, ``ceil(n / 8)`` of them) hold for ``shape``."""
        if bits.dtype != torch.uint8 or bits.numel() != -(-shape.numel() // 8):
            raise MaskError(
                f"{bits.numel()} mask entries of {bits.dtype} do not fit a weight of shape "
                f"{tuple(shape)}: expected {-(-shape.numel() // 8)} of torch.uint8"
            )
        mask = cls._make(_with_room(bits), shape, 0 if kept is None else kept)
        if kept is None:
            mask.kept = int(mask.alive().sum())
        return mask

    @classmethod
    def over(cls, bits: Tensor, shape: torch.Size, kept: int) -> "Mask":
        """The mask of bits that a kernel has written, and which it will write again."""
        return cls._make(bits, shape, kept)

    @classmethod
    def _make(cls, bits: Tensor, shape: torch.Size, kept: int) -> "Mask":
        mask = cls.__new__(cls)
        mask.shape, mask.bits, mask.kept, mask._masked = shape, bits, kept, None
        return mask

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is masked."""
        return self.kept == self.shape.numel()

    def alive(self) -> Tensor:
        """The mask as bools, True = kept, on the device of its bits."""
        if self.bits.device.type == "cpu":
            return _unpack(self.bits, self.shape)
        return portable.unpack(self.bits, self.shape)

    def masked(self, like: Tensor) -> Tensor:
        """The mask as bools, True = masked, with ``like``'s strides; kept for the next call."""
        known = self._masked
        if known is None or known.stride() != like.stride() or known.device != like.device:
            known = torch.empty_strided(
                like.shape, like.stride(), dtype=torch.bool, device=like.device
            )
            self._masked = known.copy_(self._masked_now())
        return known

    def _masked_now(self) -> Tensor:
        if self.bits.device.type == "cpu":
            return ~self.alive()
        return portable.unpack_masked(self.bits, self.shape)

    def assign(self, other: "Mask") -> None:
        """Become ``other``, at the same address: a CUDA graph that reads the bits stays valid."""
        self.bits.copy_(other.bits)
        self.kept = other.kept
        Mask.changes += 1
        if self._masked is not None:
            self._masked.copy_(self._masked_now())

    def changed(self, kept: int) -> None:
        """The bits were rewritten by a kernel and keep so many now."""
        self.kept, self._masked = kept, None
        Mask.changes += 1

    def move_to(self, device: torch.device) -> "Mask":
        """Move the bits, if they are not there, and return this mask."""
        if self.bits.device != device:
            self.bits = _with_room(self.bits.to(device))
            self._masked = None
            Mask.changes += 1
        return self

    def zero_(self, tensor: Tensor) -> None:
        """Write +0.0 wherever the mask is False, whatever stood there, in place."""
        if tensor.shape != self.shape:
            raise MaskError(
                f"a mask of shape {tuple(self.shape)} does not fit a tensor of shape "
                f"{tuple(tensor.shape)}"
            )
        if self.keeps_all and not is_capturing():  # a graph will see other masks
            return
        if native.is_available() and native.fits(tensor):
            native.zero(tensor, self.bits)
        else:
            portable.zero(tensor, self.masked(tensor))


def _unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    flags = np.unpackbits(bits.numpy(), count=shape.numel(), bitorder="little")
    return torch.from_numpy(flags).view(torch.bool).view(shape)


def _pack(alive: Tensor) -> Tensor:
    if alive.device.type == "cpu":
        return torch.from_numpy(np.packbits(alive.numpy(), bitorder="little"))
    return portable.pack(alive)


def _with_room(bits: Tensor) -> Tensor:
    """The bits, on a GPU in memory of whole int32 words, as its kernels write them."""
    if bits.device.type == "cpu":
        return bits
    words = torch.zeros(-(-bits.numel() // 4), dtype=torch.int32, device=bits.device)
    return words.view(torch.uint8)[: bits.numel()].copy_(bits)
