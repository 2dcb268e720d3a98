"""Element types: safetensors' names for torch's dtypes, and tensors as flat arrays of their bits.

Codings never look at a value, only at its bits: an element is *zero* when all its bits are, so that
-0.0 and every NaN payload are values like any other and survive a round trip.
"""

import math
from typing import Any

import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError, FormatError

__all__ = [
    "DTYPES",
    "Elements",
    "check_shape",
    "dtype_name",
    "element_shape",
    "file_shape",
    "from_elements",
    "tensor_bytes",
    "to_elements",
    "width",
]

Elements = NDArray[Any]
"""The bits of a tensor in its shape: C-contiguous, little-endian, unsigned."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F4": torch.float4_e2m1fn_x2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_DIMENSIONS = 64
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype.

    >>> dtype_name(torch.bfloat16)
    'BF16'
    """
    if dtype not in _NAMES:
        raise ConfigurationError(
            f"a tensor of {dtype} cannot be stored; convert it to one of {', '.join(DTYPES)}"
        )
    return _NAMES[dtype]


def width(name: str) -> int:
    """Bytes of an element of the named type.

    >>> width("F32")
    4
    """
    if name not in DTYPES:
        raise FormatError(f"unknown dtype {name!r}; this release reads {', '.join(DTYPES)}")
    return DTYPES[name].itemsize


def file_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape that a file gives a tensor of ``shape``: safetensors counts the halves of a byte
    of ``F4``, torch the bytes.

    >>> file_shape((4, 6), "F4"), file_shape((4, 6), "F32")
    ((4, 12), (4, 6))
    """
    if name != "F4":
        return shape
    if not shape:
        raise ConfigurationError("a scalar of F4 cannot be stored: a byte holds two; reshape(1)")
    return (*shape[:-1], 2 * shape[-1])


def element_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The tensor's own shape again; the inverse of :func:`file_shape`.

    >>> element_shape((4, 12), "F4")
    (4, 6)
    """
    if name != "F4":
        return shape
    if not shape or shape[-1] % 2:
        raise FormatError(f"shape {shape} of F4: the last dimension must be even, two to a byte")
    return (*shape[:-1], shape[-1] // 2)


def tensor_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor that a file gives this type and shape.

    >>> tensor_bytes("F4", (4, 12)), tensor_bytes("F32", (4, 12))
    (24, 192)
    """
    return math.prod(element_shape(shape, name)) * width(name)


def check_shape(shape: tuple[int, ...], dtype: str) -> None:
    """Refuse a shape that no tensor can have, zeros among its sizes or not.

    >>> check_shape((2**62, 4, 0), "F32")
    Traceback (most recent call last):
    billhook.errors.FormatError: shape (4611686018427387904, 4, 0) of F32 is larger than any memory
    """
    if len(shape) > _MAX_DIMENSIONS:
        raise FormatError(f"{len(shape)} dimensions are more than {_MAX_DIMENSIONS}")
    widest = width(dtype) if dtype in DTYPES else 16
    if math.prod(size for size in shape if size) * widest >= 2**63:
        raise FormatError(f"shape {shape} of {dtype} is larger than any memory")


def to_elements(tensor: torch.Tensor) -> Elements:
    """The bits of ``tensor``, without a copy where it is contiguous and on the CPU.

    >>> to_elements(torch.tensor([[0.0, -0.0]]))
    array([[         0, 2147483648]], dtype=uint32)
    """
    dtype_name(tensor.dtype)
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ConfigurationError(
            f"a tensor of layout {tensor.layout} on device {tensor.device} has no plain values to "
            "store; pass tensor.to_dense() or a materialised tensor"
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    size = plain.element_size()
    # As integers: the narrowest floats can hardly be copied.
    bits = plain.view(_SIGNED[size]).cpu().contiguous().reshape(-1).numpy().view(f"<u{size}")
    return bits.reshape(tuple(tensor.shape))


def from_elements(elements: Elements, dtype: str) -> torch.Tensor:
    """The tensor whose bits are ``elements`` (taken over, not copied).

    >>> import numpy as np
    >>> from_elements(np.array([[0, 2**31]], dtype="<u4"), "F32")
    tensor([[0., -0.]])
    """
    size = width(dtype)
    bits = torch.from_numpy(elements.reshape(-1).view(f"<i{size}"))
    return bits.view(DTYPES[dtype]).reshape(elements.shape)
