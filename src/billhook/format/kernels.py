"""The codings' inner loops: native kernels, or their twins in ``portable.py`` without a compiler.

Lengths that a kernel relies on are checked here or by its caller; a kernel checks what it reads.
"""

import numpy as np
from numpy.typing import NDArray

from billhook import native
from billhook.errors import FormatError
from billhook.format import portable
from billhook.format.dtypes import Elements
from billhook.format.portable import Bytes, Shares

__all__ = [
    "bitmask_decode",
    "bitmask_encode",
    "rans_decode",
    "rans_encode",
    "relative_index_decode",
    "relative_index_encode",
    "relative_index_padding",
]

_native = native.Functions(
    {
        "billhook_bitmask_decode": "PqPqqP",
        "billhook_bitmask_encode": "PqqPPq",
        "billhook_relative_index_decode": "PqqPqqPq",
        "billhook_relative_index_encode": "PqqqPPq",
        "billhook_relative_index_padding": "PqqP",
        "billhook_rans_decode": "PqqPqPqqPP",
        "billhook_rans_encode": "PqPqPqqPPq",
    }
)


def bitmask_encode(elements: Elements, nnz: int) -> tuple[Bytes, Elements]:
    """Packed mask and nonzero values of flat ``elements``, of which ``nnz`` are not zero."""
    kernel = _native.get("billhook_bitmask_encode")
    if kernel is None:
        return portable.bitmask_encode(elements, nnz)
    mask = np.empty((elements.size + 7) // 8, dtype=np.uint8)
    values = np.empty(nnz + 8, dtype=elements.dtype)
    found = kernel(
        *(elements.ctypes.data, elements.size, elements.itemsize),
        *(mask.ctypes.data, values.ctypes.data, values.size),
    )
    assert found == nnz, "the tensor changed while it was encoded"
    return mask, values[:nnz]


def bitmask_decode(mask: Bytes, values: Elements, numel: int) -> Elements:
    """The flat elements again; ``mask`` has ``ceil(numel / 8)`` bytes."""
    kernel = _native.get("billhook_bitmask_decode")
    if kernel is None:
        return portable.bitmask_decode(mask, values, numel)
    elements = np.zeros(numel, dtype=values.dtype)
    used = kernel(
        *(mask.ctypes.data, numel, values.ctypes.data, values.size, values.itemsize),
        elements.ctypes.data,
    )
    if used != values.size:
        raise FormatError(portable.mask_error(mask, values.size, numel))
    return elements


def relative_index_padding(elements: Elements) -> NDArray[np.int64]:
    """The padding zeros that flat ``elements`` need with gaps of k bits, for k in 0..8."""
    kernel = _native.get("billhook_relative_index_padding")
    if kernel is None:
        return portable.relative_index_padding(elements)
    padding = np.zeros(9, dtype=np.int64)
    kernel(elements.ctypes.data, elements.size, elements.itemsize, padding.ctypes.data)
    return padding


def relative_index_encode(elements: Elements, bits: int, stored: int) -> tuple[Bytes, Elements]:
    """Packed gaps of ``bits`` bits and exactly ``stored`` values, padding zeros included."""
    kernel = _native.get("billhook_relative_index_encode")
    if kernel is None:
        return portable.relative_index_encode(elements, bits, stored)
    index = np.empty((stored * bits + 7) // 8, dtype=np.uint8)
    values = np.empty(stored, dtype=elements.dtype)
    found = kernel(
        *(elements.ctypes.data, elements.size, elements.itemsize, bits),
        *(index.ctypes.data, values.ctypes.data, stored),
    )
    assert found == stored, "the tensor changed while it was encoded"
    return index, values


def relative_index_decode(index: Bytes, bits: int, values: Elements, numel: int) -> Elements:
    """The flat elements again; ``index`` has ``ceil(values.size * bits / 8)`` bytes."""
    kernel = _native.get("billhook_relative_index_decode")
    if kernel is None:
        return portable.relative_index_decode(index, bits, values, numel)
    elements = np.zeros(numel, dtype=values.dtype)
    end = kernel(
        *(index.ctypes.data, index.size, bits, values.ctypes.data, values.size, values.itemsize),
        *(elements.ctypes.data, numel),
    )
    portable.check_end(end, bits, numel)
    return elements


def _arguments(shares: Shares) -> tuple[int, ...]:
    rows, columns = shares.rows, shares.columns
    places = (rows.ctypes.data, rows.size, columns.ctypes.data, columns.size)
    return *places, shares.inner, shares.table.ctypes.data


def rans_encode(mask: Bytes, lanes: int, shares: Shares) -> Bytes:
    """The stream of a mask of ``rows.size * columns.size * inner`` bits."""
    kernel = _native.get("billhook_rans_encode")
    if kernel is None:
        return portable.rans_encode(mask, lanes, shares)
    stream = np.empty(4 * lanes + 2 * shares.numel, dtype=np.uint8)  # a bit emits one word at most
    given = mask.ctypes.data, lanes, *_arguments(shares)
    used = kernel(*given, stream.ctypes.data, stream.size)
    return stream[stream.size - used :].copy()


def rans_decode(stream: Bytes, lanes: int, shares: Shares) -> tuple[Bytes, int]:
    """The packed mask and the bytes of ``stream`` used."""
    kernel = _native.get("billhook_rans_decode")
    if kernel is None:
        return portable.rans_decode(stream, lanes, shares)
    mask = np.zeros((shares.numel + 7) // 8, dtype=np.uint8)
    given = stream.ctypes.data, stream.size, lanes, *_arguments(shares)
    used = kernel(*given, mask.ctypes.data)
    if used < 0:
        raise FormatError(portable.rans_error(used))
    return mask, used
