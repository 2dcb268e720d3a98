"""Masks on tensors in main memory, one native pass for each thing done to them.

The functions take plain row-major tensors (:func:`fits`) and masks as packed bits, uint8, of which
bit i % 8 of byte i // 8 belongs to element i. They run on torch's number of threads; the results
do not depend on it.
"""

import ctypes
import functools

import torch
from torch import Tensor

from billhook import native

__all__ = [
    "NO_CEILING",
    "exchange",
    "fits",
    "in_main_memory",
    "is_available",
    "select",
    "select_raw",
    "zero",
    "zero_leaving",
]

_native = native.Functions(
    {
        "billhook_isa": "",
        "billhook_mask_select": "qPPPqqqqPP",
        "billhook_mask_zero": "PqqPqq",
        "billhook_mask_zero_leaving": "PqqPPqq",
        "billhook_mask_exchange": "PPqqPPqq",
    }
)

#: The ceiling that says nothing.
NO_CEILING = 2**31 - 1
#: What the kernel calls scores, and weights to rank by their magnitude.
_SCORES = 0
_MAGNITUDES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3, torch.float64: 4}


def is_available() -> bool:
    """Whether this installation has the kernels."""
    return native.library() is not None


def in_main_memory(tensor: Tensor) -> bool:
    """Whether the host computes on it, so that masking it at once finds it in the cache."""
    return tensor.is_cpu


def fits(tensor: Tensor) -> bool:
    """Whether ``tensor`` is one row-major run of plain elements in main memory.

    Subclasses (DTensor, torchao's quantised state) have no data of their own to point at.
    """
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.itemsize in (2, 4, 8)
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def select(scores: Tensor, kept: int) -> tuple[int, Tensor]:
    """The number of NaNs, and if it is 0 the bits of the ``kept`` largest fp32 scores."""
    nans, bits, _ = _select(_SCORES, (scores, None, None), kept, NO_CEILING)
    return nans, bits


def select_raw(
    weight: Tensor, aside: Tensor | None, held: Tensor, kept: int, ceiling: int = NO_CEILING
) -> tuple[int, Tensor, int]:
    """The number of NaNs, and if it is 0 the bits of the ``kept`` largest raw magnitudes.

    Args:
        weight: what is kept, where the bits ``held`` are 1.
        aside: of the weight's shape and dtype: what is masked, where they are 0. None if masked
            weights do not return.
        held: the mask in force.
        kept: how many survive; of equals the lower index.
        ceiling: what the selection before this one returned, if its mask is in force: nothing that
            is aside lies above it, so where it is low enough ``aside`` is not read.

    Returns:
        NaNs, bits, and the next ceiling.
    """
    return _select(_MAGNITUDES[weight.dtype], (weight, aside, held), kept, ceiling)


def _select(
    kind: int, raw: tuple[Tensor, Tensor | None, Tensor | None], kept: int, ceiling: int
) -> tuple[int, Tensor, int]:
    numel = raw[0].numel()
    bits = torch.empty(-(-numel // 8), dtype=torch.uint8)
    pointers = [None if each is None else each.data_ptr() for each in raw]
    limit = ctypes.c_int64(ceiling)
    numbers = numel, kept, *_how()
    given = kind, *pointers, *numbers, bits.data_ptr(), ctypes.addressof(limit)
    nans = _native["billhook_mask_select"](*given)
    return nans, bits, limit.value


def zero(tensor: Tensor, bits: Tensor) -> bool:
    """Write +0.0 where the bits are 0; whether anything else stood at such a place, -0.0 included.

    Nothing is written to memory that is right already.
    """
    size, count = tensor.itemsize, tensor.numel()
    wrote = _native["billhook_mask_zero"](tensor.data_ptr(), size, count, bits.data_ptr(), *_how())
    if wrote:
        torch.autograd.graph.increment_version(tensor)
    return bool(wrote)


def zero_leaving(tensor: Tensor, before: Tensor, now: Tensor) -> None:
    """Write +0.0 where the bits are 0 ``now`` and were 1 ``before``."""
    size, count = tensor.itemsize, tensor.numel()
    given = tensor.data_ptr(), size, count, before.data_ptr(), now.data_ptr()
    _native["billhook_mask_zero_leaving"](*given, *_how())
    torch.autograd.graph.increment_version(tensor)


def exchange(weight: Tensor, aside: Tensor, bits: Tensor, now: Tensor) -> None:
    """Put the mask ``now`` in force: ``bits`` are rewritten with it, all or nothing.

    What becomes masked moves aside and leaves +0.0; what is kept again comes back. Entries of
    ``aside`` at kept places mean nothing.
    """
    size, count = weight.itemsize, weight.numel()
    given = weight.data_ptr(), aside.data_ptr(), size, count, bits.data_ptr(), now.data_ptr()
    _native["billhook_mask_exchange"](*given, *_how())
    torch.autograd.graph.increment_version(weight)


def _how() -> tuple[int, int]:
    """The instruction set and the number of threads."""
    return _isa(), torch.get_num_threads()


@functools.cache
def _isa() -> int:
    return _native["billhook_isa"]()
