"""Weights in 8 bits as the kernels read them: blocks of rows by four columns, packs, windows.

``csrc/inference/u8_pack.h`` makes them, for the runtime too.

Which packing runs never changes a result: sums are exact integers.
"""

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from billhook import native
from billhook.inference.int8 import bindings
from billhook.inference.kernels import pointer

__all__ = [
    "GROUPS",
    "Packed",
    "Rows",
    "as_matrix",
    "pack_blocks",
    "pack_depthwise",
    "pack_vector",
    "pack_windows",
    "rows_for",
]

GROUPS = (1, 4, 8, 16)  # rows that may share their columns
PACK = 16  # rows of a pack
WINDOW = 64  # columns of a window
STEP = 64  # bytes of a step of a pack
SLACK = 64  # bytes that a kernel may read beyond an array

Bytes = NDArray[np.int8]
Array = NDArray[Any]


class MatrixStruct(ctypes.Structure):
    """A matrix of s8; see ``u8_pack.h``."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("value", ctypes.c_void_p),
    )


class FiltersStruct(ctypes.Structure):
    """A convolution's weights; see ``u8_pack.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "inputs", "taps", "groups")),
        ("value", ctypes.c_void_p),
    )


class TapsStruct(ctypes.Structure):
    """Filters of a depthwise convolution; see ``u8_pack.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "height", "width", "stride", "words")),
        ("value", ctypes.c_void_p),
    )


#: By the names that csrc/ has for them; compared with the library when it is first used.
STRUCTURES = {"S8Matrix": MatrixStruct, "S8Filters": FiltersStruct, "S8Taps": TapsStruct}
_native = native.Functions(
    {
        "billhook_s8_matrix": "PP",
        "billhook_s8_shift_biases": "PPP",
        "billhook_s8_count_blocks": "PqqP",
        "billhook_s8_fill_blocks": "PqqqPP",
        "billhook_s8_pack_steps": "PqPP",
        "billhook_s8_fill_packs": "PqqPPPP",
        "billhook_s8_window_steps": "PP",
        "billhook_s8_fill_windows": "PPPP",
        "billhook_s8_fill_stream": "PPPPP",
        "billhook_s8_quads": "PP",
    },
    STRUCTURES,
)


@dataclass(frozen=True)
class Rows:
    """A matrix of s8 (rows, columns) with what turns its sums to values.

    y[r] = (bias[r] + sum_k value[r, k] * x[k]) * scale[r]; ``offset`` is added to it where the
    sums are made floats. bias is int32, scale and offset fp32.
    """

    value: Bytes
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32] | None = None


class _Matrix:
    """Rows' values as the library takes them."""

    def __init__(self, value: Bytes) -> None:
        self.value = np.ascontiguousarray(value)
        self.rows, self.columns = self.value.shape
        self.struct = MatrixStruct(self.rows, self.columns, pointer(self.value))
        self.address = ctypes.addressof(self.struct)


def as_matrix(weight: Bytes, groups: int) -> Bytes:
    """(M, K) of a convolution in the order that operands lie in: taps, then channels by four."""
    rows, inputs, kh, kw = weight.shape
    own = np.ascontiguousarray(weight)
    struct = FiltersStruct(rows, inputs, kh * kw, groups, pointer(own))
    columns = _native["billhook_s8_matrix"](ctypes.addressof(struct), None)
    matrix = np.empty((rows, columns), np.int8)
    _native["billhook_s8_matrix"](ctypes.addressof(struct), pointer(matrix))
    return matrix


def rows_for(isa: str, rows: Rows) -> Rows:
    """The rows with the biases that an instruction set needs: NEON multiplies x - 128."""
    if isa != "neondot":
        return rows
    matrix, bias = _Matrix(rows.value), np.ascontiguousarray(rows.bias, np.int32)
    shifted = np.empty_like(bias)
    _native["billhook_s8_shift_biases"](matrix.address, pointer(bias), pointer(shifted))
    return replace(rows, bias=shifted)


@dataclass
class Packed:
    """A packing: the structure that a kernel reads, and the arrays it points to."""

    struct: ctypes.Structure
    arrays: dict[str, Array] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


def _packed(struct: Any, integers: dict[str, int], arrays: dict[str, Array | None]) -> Packed:
    kept = {name: array for name, array in arrays.items() if array is not None}
    pointers = {name: pointer(array) for name, array in arrays.items()}
    return Packed(struct(**integers, **pointers), kept)


def _padded(array: Array, length: int) -> Array:
    """The array with its first axis filled up to ``length`` by zeros."""
    result = np.zeros((length, *array.shape[1:]), array.dtype)
    result[: len(array)] = array
    return result


def _room(count: int, dtype: Any) -> Array:
    """An array that kernels may read a little beyond."""
    return np.zeros(count + SLACK // np.dtype(dtype).itemsize, dtype)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def pack_blocks(rows: Rows, group: int, *, dense: bool = False, words: bool = False) -> Packed:
    """Blocks of ``group`` x 4 that have a nonzero, or all of them; for ``u8s8_spmm``.

    ``words``: values as words, of each four the even ones first, as AVX2 multiplies them.
    """
    matrix = _Matrix(rows.value)
    length = _up(matrix.rows, max(group, 4))
    ptr = np.empty(length // group + 1, np.int32)
    count = _native["billhook_s8_count_blocks"](matrix.address, group, dense, pointer(ptr))
    column = _room(count, np.uint16)
    value = _room(count * group * 4, np.int16 if words else np.int8)
    _native["billhook_s8_fill_blocks"](
        matrix.address, group, dense, words, pointer(column), pointer(value)
    )
    arrays: dict[str, Array | None] = {
        "ptr": ptr,
        "column": column,
        "value": value,
        "bias": _padded(rows.bias.astype(np.int32), length),
        "scale": _padded(rows.scale.astype(np.float32), length),
    }
    integers = {"rows": matrix.rows, "group": group, "groups": length // group}
    return _packed(bindings.BlockRowsStruct, integers, arrays)


def pack_vector(rows: Rows, group: int, *, words: bool = False) -> Packed:
    """Packs of sixteen rows, the longest first; for ``u8s8_spmv``.

    ``words``: of eight rows the even values, then the odd ones, which AVX2 makes words.
    """
    matrix = _Matrix(rows.value)
    packs = _up(matrix.rows, PACK) // PACK
    ptr, row = np.empty(packs + 1, np.int32), np.empty(packs * PACK, np.int32)
    steps = _native["billhook_s8_pack_steps"](matrix.address, group, pointer(ptr), pointer(row))
    column, value = _room(steps * PACK // group, np.uint16), _room(steps * STEP, np.int8)
    _native["billhook_s8_fill_packs"](
        *(matrix.address, group, words, pointer(ptr), pointer(row)),
        *(pointer(column), pointer(value)),
    )
    inside, pick = row >= 0, np.maximum(row, 0)
    arrays: dict[str, Array | None] = {
        "ptr": ptr,
        "column": column,
        "value": value,
        "row": row,
        "bias": np.where(inside, rows.bias[pick], 0).astype(np.int32),
        "scale": np.where(inside, rows.scale[pick], 0).astype(np.float32),
        "offset": None if rows.offset is None else rows.offset[pick].astype(np.float32),
    }
    size = {"rows": matrix.rows, "columns": matrix.columns}
    return _packed(bindings.VectorRowsStruct, {**size, "group": group, "packs": packs}, arrays)


def pack_windows(rows: Rows, *, stream: bool) -> Packed:
    """Sixteen rows by windows of 64 columns, four nonzeros of each row per step; for AVX512_VBMI.

    ``stream``: without the unused places, for vectors; else with them, for maps.
    """
    matrix = _Matrix(rows.value)
    packs = _up(matrix.rows, PACK) // PACK
    windows = max(1, _up(matrix.columns, WINDOW) // WINDOW)
    ptr = np.empty(packs * windows + 1, np.int32)
    steps = _native["billhook_s8_window_steps"](matrix.address, pointer(ptr))
    made = (_stream if stream else _places)(matrix, ptr, steps, packs)
    length = packs * PACK
    arrays: dict[str, Array | None] = {
        "ptr": ptr,
        **dict.fromkeys(("mask", "stream", "begin", "index", "value")),
        **made,
        "bias": _padded(rows.bias.astype(np.int32), length),
        "scale": _padded(rows.scale.astype(np.float32), length),
        "offset": None if rows.offset is None else _padded(rows.offset.astype(np.float32), length),
    }
    size = {"rows": matrix.rows, "columns": matrix.columns}
    return _packed(bindings.WindowRowsStruct, {**size, "packs": packs, "windows": windows}, arrays)


def _places(matrix: _Matrix, ptr: Array, steps: int, _: int) -> dict[str, Array]:
    index, value = _room(steps * STEP, np.uint8), _room(steps * STEP, np.int8)
    _native["billhook_s8_fill_windows"](
        matrix.address, pointer(ptr), pointer(index), pointer(value)
    )
    return {"index": index, "value": value}


def _stream(matrix: _Matrix, ptr: Array, steps: int, packs: int) -> dict[str, Array]:
    """One mask per step, then the columns and the values of its used places."""
    mask, begin = _room(steps, np.uint64), np.empty(packs + 1, np.int64)
    stream = np.zeros(2 * int(np.count_nonzero(matrix.value)) + 4 * SLACK, np.uint8)
    _native["billhook_s8_fill_stream"](
        matrix.address, pointer(ptr), pointer(mask), pointer(begin), pointer(stream)
    )
    return {"mask": mask, "stream": stream, "begin": begin}


def pack_depthwise(
    rows: Rows, kernel: tuple[int, int], stride: int, *, words: bool = False
) -> Packed:
    """Filters (channels, kernel height * width) in runs of taps, for columns ``stride`` apart.

    ``words``: runs of two taps as words, as AVX2 multiplies them, instead of four as bytes.
    """
    matrix = _Matrix(rows.value)
    length = _up(matrix.rows, 4)
    taps = TapsStruct(matrix.rows, *kernel, stride, words, pointer(matrix.value))
    address = ctypes.addressof(taps)
    value = _room(_native["billhook_s8_quads"](address, None), np.int8)
    _native["billhook_s8_quads"](address, pointer(value))
    arrays: dict[str, Array | None] = {
        "value": value,
        "bias": _padded(rows.bias.astype(np.int32), length),
        "scale": _padded(rows.scale.astype(np.float32), length),
    }
    return _packed(bindings.DepthwiseStruct, {}, arrays)
