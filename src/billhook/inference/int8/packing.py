"""Weights in 8 bits as the kernels read them: blocks of rows by four columns, packs, windows.

Which packing runs never changes a result: sums are exact integers.
"""

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from billhook.inference.int8 import bindings
from billhook.inference.kernels import pointer

__all__ = [
    "GROUPS",
    "Packed",
    "Rows",
    "pack_blocks",
    "pack_depthwise",
    "pack_vector",
    "pack_windows",
    "rows_for",
]

GROUPS = (1, 4, 8, 16)  # rows that may share their columns
PACK = 16  # rows of a pack
WINDOW = 64  # columns of a window
SLACK = 64  # bytes that a kernel may read beyond an array

Bytes = NDArray[np.int8]
Array = NDArray[Any]


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


def rows_for(isa: str, rows: Rows) -> Rows:
    """The rows with the biases that an instruction set needs: NEON multiplies x - 128."""
    if isa != "neondot":
        return rows
    sums = rows.value.reshape(len(rows.value), -1).astype(np.int64).sum(axis=1)
    return replace(rows, bias=(rows.bias + 128 * sums).astype(np.int32))


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


def _padded(array: Array, length: int, value: float = 0) -> Array:
    """The array with its first axis filled up to ``length``."""
    result = np.full((length, *array.shape[1:]), value, array.dtype)
    result[: len(array)] = array
    return result


def _with_slack(array: Array) -> Array:
    """A flat copy that kernels may read a little beyond."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return _padded(flat, len(flat) + SLACK // flat.itemsize)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def blocks_of(value: Bytes, group: int, least: int = 4) -> NDArray[np.int8]:
    """(groups, quads, group, 4): the matrix in blocks, filled up with zeros."""
    rows, columns = value.shape
    full = np.zeros((_up(rows, max(group, least)), _up(columns, 4)), np.int8)
    full[:rows, :columns] = value
    return full.reshape(-1, group, full.shape[1] // 4, 4).transpose(0, 2, 1, 3)


def pack_blocks(rows: Rows, group: int, *, dense: bool = False, words: bool = False) -> Packed:
    """Blocks of ``group`` x 4 that have a nonzero, or all of them; for ``u8s8_spmm``.

    ``words``: values as words, of each four the even ones first, as AVX2 multiplies them.
    """
    blocks = blocks_of(rows.value, group)
    groups, quads = blocks.shape[:2]
    used = np.ones((groups, quads), bool) if dense else blocks.any(axis=(2, 3))
    at_group, at_quad = np.nonzero(used)
    values = blocks[at_group, at_quad]
    if words:
        values = values[..., [0, 2, 1, 3]].astype(np.int16)
    counts = np.bincount(at_group, minlength=groups)
    length = groups * group
    arrays: dict[str, Array | None] = {
        "ptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "column": _with_slack(at_quad.astype(np.uint16)),
        "value": _with_slack(values),
        "bias": _padded(rows.bias.astype(np.int32), length),
        "scale": _padded(rows.scale.astype(np.float32), length),
    }
    integers = {"rows": len(rows.value), "group": group, "groups": groups}
    return _packed(bindings.BlockRowsStruct, integers, arrays)


def pack_vector(rows: Rows, group: int, *, words: bool = False) -> Packed:
    """Packs of sixteen rows, the longest first; for ``u8s8_spmv``.

    ``words``: of eight rows the even values, then the odd ones, which AVX2 makes words.
    """
    blocks = blocks_of(rows.value, group, PACK)
    used: NDArray[np.bool_] = np.asarray(blocks.any(axis=(2, 3)))
    lengths = used.sum(axis=1)
    order = np.argsort(-lengths, kind="stable") if group < PACK else np.arange(len(lengths))
    per_pack = PACK // group
    packs = len(order) // per_pack
    steps = lengths[order].reshape(packs, per_pack).max(axis=1)
    ptr = np.concatenate([[0], np.cumsum(steps)])
    column = np.zeros((int(ptr[-1]), per_pack), np.uint16)
    value = np.zeros((int(ptr[-1]), per_pack, group, 4), np.int8)
    # Position p of the order lies in pack p // per_pack; its k-th block in that pack's k-th step.
    at_position, at_quad = np.nonzero(used[order])
    ordered = lengths[order]
    nth = np.arange(len(at_position)) - np.repeat(np.cumsum(ordered) - ordered, ordered)
    step = ptr[at_position // per_pack] + nth
    column[step, at_position % per_pack] = at_quad
    value[step, at_position % per_pack] = blocks[order][at_position, at_quad]
    if words:
        value = value.reshape(-1, 2, PACK // 2, 2, 2).transpose(0, 1, 4, 2, 3)
    row = (order[:, None] * group + np.arange(group)).reshape(-1)
    inside = row < len(rows.value)
    pick = np.where(inside, row, 0)
    arrays: dict[str, Array | None] = {
        "ptr": ptr.astype(np.int32),
        "column": _with_slack(column),
        "value": _with_slack(value),
        "row": np.where(inside, row, -1).astype(np.int32),
        "bias": np.where(inside, rows.bias[pick], 0).astype(np.int32),
        "scale": np.where(inside, rows.scale[pick], 0).astype(np.float32),
        "offset": None if rows.offset is None else rows.offset[pick].astype(np.float32),
    }
    size = {"rows": len(rows.value), "columns": rows.value.shape[1]}
    integers = {**size, "group": group, "packs": packs}
    return _packed(bindings.VectorRowsStruct, integers, arrays)


def pack_windows(rows: Rows, *, stream: bool) -> Packed:
    """Sixteen rows by windows of 64 columns, four nonzeros of each row per step; for AVX512_VBMI.

    ``stream``: without the unused places, for vectors; else with them, for maps.
    """
    count, columns = rows.value.shape
    packs, windows = _up(count, PACK) // PACK, max(1, _up(columns, WINDOW) // WINDOW)
    full = np.zeros((packs * PACK, windows * WINDOW), np.int8)
    full[:count, :columns] = rows.value
    cells = full.reshape(packs, PACK, windows, WINDOW).transpose(0, 2, 1, 3)
    pack, window, row, column = np.nonzero(cells)
    cell = (pack * windows + window) * PACK + row
    lengths = np.bincount(cell, minlength=packs * windows * PACK)
    nth = np.arange(len(cell)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    steps = _up_all(lengths, 4).reshape(-1, PACK).max(axis=1) // 4
    ptr = np.concatenate([[0], np.cumsum(steps)])
    total = int(ptr[-1])
    place = (ptr[pack * windows + window] + nth // 4) * 64 + row * 4 + nth % 4
    index, value = np.zeros(total * 64, np.uint8), np.zeros(total * 64, np.int8)
    index[place], value[place] = column, cells[pack, window, row, column]
    length = packs * PACK
    arrays: dict[str, Array | None] = {
        "ptr": ptr.astype(np.int32),
        **(_stream(index, value, place, ptr[::windows]) if stream else _places(index, value)),
        "bias": _padded(rows.bias.astype(np.int32), length),
        "scale": _padded(rows.scale.astype(np.float32), length),
        "offset": None if rows.offset is None else _padded(rows.offset.astype(np.float32), length),
    }
    integers = {"rows": count, "columns": columns, "packs": packs, "windows": windows}
    return _packed(bindings.WindowRowsStruct, integers, arrays)


def _up_all(values: Array, multiple: int) -> Array:
    return -(-values // multiple) * multiple


def _places(index: Array, value: Array) -> dict[str, Array | None]:
    empty: dict[str, Array | None] = {"mask": None, "stream": None, "begin": None}
    return {**empty, "index": _with_slack(index), "value": _with_slack(value)}


def _stream(index: Array, value: Array, place: Array, first: Array) -> dict[str, Array | None]:
    """One mask per step, then the columns and the values of its used places."""
    total = len(index) // 64
    used = np.zeros(total * 64, bool)
    used[place] = True
    mask = np.packbits(used.reshape(total, 64), axis=1, bitorder="little").view(np.uint64)
    counts = used.reshape(total, 64).sum(axis=1)
    begin = np.concatenate([[0], np.cumsum(2 * counts)])
    at = np.flatnonzero(used)
    step = at // 64
    nth = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    stream = np.zeros(int(begin[-1]) + 4 * SLACK, np.uint8)
    stream[begin[step] + nth] = index[at]
    stream[begin[step] + counts[step] + nth] = value[at].view(np.uint8)
    return {
        "mask": _with_slack(mask.reshape(-1)),
        "stream": stream,
        "begin": begin[first].astype(np.int64),
        "index": None,
        "value": None,
    }


def pack_depthwise(rows: Rows, geometry: dict[str, int]) -> Packed:
    """Filters (channels, 9) of three by three taps; ``geometry`` as in ``DepthwiseQuads``."""
    channels = len(rows.value)
    length = _up(channels, 4)
    taps = _padded(rows.value.reshape(channels, 3, 3), length).reshape(-1, 4, 3, 3)
    value = np.zeros((len(taps), 3, 2, 4, 4), np.int8)
    value[:, :, 0, :, 0:3] = value[:, :, 1, :, 1:4] = taps.transpose(0, 2, 1, 3)
    arrays: dict[str, Array | None] = {
        "value": _with_slack(value),
        "bias": _padded(rows.bias.astype(np.int32), length),
        "scale": _padded(rows.scale.astype(np.float32), length),
    }
    return _packed(bindings.DepthwiseStruct, geometry, arrays)
