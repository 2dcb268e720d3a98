"""Value types: store a weight tensor's values in fewer bits than its dtype has.

Applies to *weights*: floating tensors of two or more dimensions. Biases, norms and integer tensors
keep their dtype. Zero maps to zero, so masks survive; a *survivor* that is not zero but rounds to
zero is counted, or kept at one quantum (the smallest nonzero the type can hold).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError, FormatError
from billhook.format.dtypes import DTYPES, Elements, from_elements, to_elements

__all__ = ["VALUE_TYPES", "Quantised", "applies", "check_record", "dequantise", "quantise"]

VALUE_TYPES = ("F32", "F16", "BF16", "I8")
_LEVELS = 127


@dataclass(frozen=True)
class Quantised:
    """``elements`` in the value type, one fp32 scale per row of the first dimension for ``I8``
    (else none), and how many survivors rounded to zero."""

    elements: Elements
    scales: NDArray[np.float32]
    lost: int


def applies(values: str, tensor: torch.Tensor) -> bool:
    """Whether ``values`` narrows this tensor.

    >>> applies("I8", torch.ones(3, 3)), applies("I8", torch.ones(3))
    (True, False)
    """
    if values not in VALUE_TYPES:
        raise ConfigurationError(f"values={values!r} is not one of {', '.join(VALUE_TYPES)}")
    weight = tensor.is_floating_point() and tensor.dim() >= 2 and tensor.element_size() > 1
    return weight and DTYPES[values].itemsize < tensor.element_size()


def quantise(name: str, tensor: torch.Tensor, values: str, keep_survivors: bool) -> Quantised:
    """The tensor's values as ``values``; raises ConfigurationError on one that does not fit."""
    wide = tensor.detach().cpu().double()
    if values == "I8":
        narrow, scales = _to_int8(name, wide)
    else:
        narrow, scales = wide.to(DTYPES[values]), np.empty(0, dtype=np.float32)
        if bool((narrow.isinf() & ~wide.isinf()).any()):
            raise ConfigurationError(
                f"tensor {name!r}: {float(wide[wide.isfinite()].abs().max()):g} overflows {values};"
                " store it with values='BF16' or 'F32'"
            )
    lost = (wide != 0) & (narrow == 0)
    count = int(lost.sum())
    if count:
        zero = torch.zeros((), dtype=narrow.dtype)
        quantum = _quantum(values)
        kept = torch.where(wide < 0, -quantum, quantum) if keep_survivors else zero
        narrow = torch.where(lost, kept, narrow)
    return Quantised(to_elements(narrow), scales, 0 if keep_survivors else count)


def _quantum(values: str) -> torch.Tensor:
    one = np.ones((), dtype=f"<u{DTYPES[values].itemsize}")
    return from_elements(one, values)


def _to_int8(name: str, wide: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.float32]]:
    """``round(w / scale)`` with ``scale = max |w| / 127`` of each row of the first dimension."""
    largest = wide.abs().flatten(1).amax(1) if wide.numel() else wide.new_zeros(wide.shape[0])
    scales = (largest / _LEVELS).float()
    if not bool(torch.isfinite(scales).all()):
        raise ConfigurationError(
            f"tensor {name!r} holds a value that int8 cannot hold (NaN, infinite or beyond fp32); "
            "store it with values=None"
        )
    # A subnormal scale may have rounded down so far that the largest weight needs more than 127.
    too_small = (scales > 0) & ((largest / scales).round() > _LEVELS)
    scales = torch.where(too_small, torch.nextafter(scales, torch.tensor(torch.inf)), scales)
    divisor = torch.where(scales == 0, torch.inf, scales.double())
    shaped = divisor.reshape(-1, *[1] * (wide.dim() - 1))
    return (wide / shaped).round().to(torch.int8), scales.numpy()


def check_record(dtype: str, values: str, shape: tuple[int, ...]) -> int:
    """The bytes of scales in an entry whose untrusted record names ``values``."""
    floating = DTYPES.get(dtype, torch.int8).is_floating_point
    narrower = values in VALUE_TYPES and floating
    if not narrower or len(shape) < 2 or DTYPES[values].itemsize >= DTYPES[dtype].itemsize:
        raise FormatError(f"values {values!r} do not go with dtype {dtype!r} and shape {shape}")
    return 4 * shape[0] if values == "I8" else 0


def dequantise(
    elements: Elements, values: str, scales: NDArray[np.float32], dtype: str
) -> torch.Tensor:
    """The tensor of ``dtype``: each value converted, times its row's scale (in fp32) for ``I8``."""
    narrow = from_elements(elements, values)
    if values != "I8":
        return narrow.to(DTYPES[dtype])
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FormatError("a scale is negative, infinite or NaN")
    shaped = torch.from_numpy(scales.astype("<f4")).reshape(-1, *[1] * (narrow.dim() - 1))
    return (narrow.float() * shaped).to(DTYPES[dtype])
