"""Dense weights to the layouts the kernels read: CSR with operand offsets, and lanes of eight rows.

Zeros are dropped, so a pruned weight contributes nothing, whatever its input (a dense layer makes
0 * inf = NaN); every other value is kept bit for bit.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.inference.kernels import (
    ACTIVATIONS,
    LANES,
    Array,
    BlocksStruct,
    LaneRowsStruct,
    SparseRowsStruct,
    pointer,
)

Columns = NDArray[np.int32] | NDArray[np.uint16]  # the narrower one where all columns fit
Struct = TypeVar("Struct", bound=ctypes.Structure)

MAX_LANE_COLUMNS = 2**16 - 1  # uint16 columns, and one more for the fill
CHUNK = 128  # rows that are put in another order among themselves; mirrored by spmm.h
# Panel floats in use at a time (the first-level cache), beyond which panels are cut into blocks of
# matrix columns, as long as a row still has this many nonzeros in a block.
PANEL_FLOATS = 12288
MIN_NONZEROS = 16
ROWS_AT_ONCE = 256  # that are packed into lanes


@dataclass(frozen=True)
class Csr:
    """A sparse matrix: row r holds ``value[row_ptr[r]:row_ptr[r + 1]]``, columns ascending."""

    shape: tuple[int, int]
    row_ptr: NDArray[np.int32]
    column: Columns
    value: NDArray[np.float32]

    @property
    def nnz(self) -> int:
        return len(self.value)


@dataclass(frozen=True)
class SparseWeight:
    """A pruned weight that is never dense: its shape, and its nonzeros with all but the first
    dimension flattened into the columns."""

    shape: tuple[int, ...]
    csr: Csr


@dataclass(frozen=True)
class SparseRows:
    """The arrays of csrc's SparseRows, and the structure that points to them.

    ``place`` is where a nonzero finds its operand: uint16 columns of a panel, counted from
    ``first_column``, or int32 offsets into planes.
    """

    row_ptr: NDArray[np.int32]
    place: NDArray[np.uint16] | NDArray[np.int32]
    value: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activation: str = "none"
    group: int = 1
    first_column: int = 0
    row: NDArray[np.int32] | None = None

    def grouped(self) -> "SparseRows":
        """The same in groups of eight rows, if each eight have the same operands.

        >>> csr = to_csr(torch.ones(8, 2))
        >>> SparseRows(csr.row_ptr, csr.column, csr.value).grouped().place.tolist()
        [0, 1]
        """
        if self.group != 1 or not _shares_columns(self.row_ptr, self.place):
            return self
        row_ptr = self.row_ptr[::LANES] // LANES
        first = self.row_ptr[:-1:LANES].repeat(np.diff(row_ptr))
        within = np.arange(row_ptr[-1]) - row_ptr[:-1].repeat(np.diff(row_ptr))
        length = np.diff(row_ptr).repeat(np.diff(row_ptr))
        source = (first + within)[:, None] + length[:, None] * np.arange(LANES)
        return replace(
            self,
            row_ptr=row_ptr.astype(np.int32),
            place=self.place[first + within],
            value=self.value[source],
            group=LANES,
        )

    @cached_property
    def struct(self) -> SparseRowsStruct:
        panel = self.place.dtype == np.uint16
        return SparseRowsStruct(
            rows=(len(self.row_ptr) - 1) * self.group,
            activation=ACTIVATIONS.index(self.activation),
            group=self.group,
            first_column=self.first_column,
            row_ptr=pointer(self.row_ptr),
            row=pointer(self.row),
            offset=None if panel else pointer(self.place),
            column=pointer(self.place) if panel else None,
            value=pointer(self.value),
            bias=pointer(self.bias),
        )

    @property
    def nbytes(self) -> int:
        arrays = (self.row_ptr, self.place, self.value, self.bias, self.row)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True)
class BlockedRows:
    """The arrays of csrc's Blocks: a matrix in blocks of columns."""

    blocks: tuple[SparseRows, ...]

    @cached_property
    def _array(self) -> "ctypes.Array[SparseRowsStruct]":
        return struct_array([block.struct for block in self.blocks])

    @cached_property
    def struct(self) -> BlocksStruct:
        return BlocksStruct(first=ctypes.addressof(self._array), count=len(self.blocks))

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)


@dataclass(frozen=True)
class LaneRows:
    """The arrays of csrc's LaneRows, and the structure that points to them."""

    shape: tuple[int, int]
    group_ptr: NDArray[np.int32]
    column: NDArray[np.uint16]
    value: NDArray[np.float32]
    row: NDArray[np.int32]
    shared_columns: bool
    bias: NDArray[np.float32] | None = None
    activation: str = "none"

    @cached_property
    def struct(self) -> LaneRowsStruct:
        return LaneRowsStruct(
            rows=self.shape[0],
            columns=self.shape[1],
            groups=len(self.group_ptr) - 1,
            activation=ACTIVATIONS.index(self.activation),
            shared_columns=int(self.shared_columns),
            group_ptr=pointer(self.group_ptr),
            column=pointer(self.column),
            value=pointer(self.value),
            row=pointer(self.row),
            bias=pointer(self.bias),
        )

    @property
    def nbytes(self) -> int:
        arrays: list[Array] = [self.group_ptr, self.column, self.value, self.row]
        if self.bias is not None:
            arrays.append(self.bias)
        return sum(array.nbytes for array in arrays)


def floats(tensor: torch.Tensor | None) -> NDArray[np.float32] | None:
    """A private fp32 copy of a tensor as the array the kernels read."""
    if tensor is None:
        return None
    return np.array(tensor.detach().to("cpu", torch.float32).contiguous().numpy(), order="C")


def narrow(column: NDArray[Any], columns: int) -> Columns:
    """Column numbers in two bytes where they fit, otherwise in four."""
    if columns < 2**16:
        return column.astype(np.uint16, copy=False)
    return column.astype(np.int32, copy=False)


def to_csr(weight: torch.Tensor | SparseWeight) -> Csr:
    """The nonzeros of a weight, row-major; dimensions beyond the first are the columns.

    >>> csr = to_csr(torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]]))
    >>> csr.row_ptr.tolist(), csr.column.tolist(), csr.value.tolist()
    ([0, 1, 1, 2], [1, 0], [2.0, 3.0])
    """
    if isinstance(weight, SparseWeight):
        return weight.csr
    dense = floats(weight.flatten(1))
    assert dense is not None
    rows, columns = np.nonzero(dense)
    row_ptr = np.zeros(len(dense) + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=len(dense)), out=row_ptr[1:])
    shape = (dense.shape[0], dense.shape[1])
    return Csr(shape, row_ptr, narrow(columns, shape[1]), dense[rows, columns])


def panel_rows(
    csr: Csr, width: int, bias: NDArray[np.float32] | None, activation: str = "none"
) -> BlockedRows:
    """Rows whose operand is a panel of ``width`` columns, in blocks of matrix columns: the first
    adds the bias, the last applies the activation."""
    rows, columns = csr.shape
    block = max(PANEL_FLOATS // width, MIN_NONZEROS * rows * columns // max(csr.nnz, 1))
    count = max(1, -(-columns // min(block, MAX_LANE_COLUMNS)))
    block = -(-columns // count)
    shared = _shares_columns(csr.row_ptr, csr.column)
    parts = [_column_block(csr, i * block, (i + 1) * block, shared) for i in range(count)]
    parts[0] = replace(parts[0], bias=bias)
    parts[-1] = replace(parts[-1], activation=activation)
    return BlockedRows(tuple(part.grouped() if shared else part for part in parts))


def _column_block(csr: Csr, first: int, last: int, in_order: bool) -> SparseRows:
    """Some columns of a panel's matrix; the rows of a chunk longest first unless ``in_order``.

    >>> rows = _column_block(to_csr(torch.tensor([[1.0, 0, 2], [0, 3, 4]])), 1, 3, False)
    >>> rows.row.tolist(), rows.place.tolist(), rows.value.tolist()
    ([1, 0], [0, 1, 1], [3.0, 4.0, 2.0])
    """
    in_block = [len(_inside(csr, start, first, last)) for start in range(0, csr.shape[0], CHUNK)]
    place, value = np.empty(sum(in_block), np.uint16), np.empty(sum(in_block), np.float32)
    row_ptr, row = np.zeros(csr.shape[0] + 1, np.int32), np.arange(csr.shape[0], dtype=np.int32)
    at = 0
    for i, count in enumerate(in_block):  # arrays of all nonzeros would take several times as much
        rows, inside = slice(i * CHUNK, (i + 1) * CHUNK), _inside(csr, i * CHUNK, first, last)
        of = np.searchsorted(csr.row_ptr, inside, side="right") - 1 - rows.start
        length = np.bincount(of, minlength=len(row[rows]))
        order = np.arange(len(length)) if in_order else np.argsort(-length, kind="stable")
        source = inside[np.argsort(np.argsort(order)[of], kind="stable")]
        place[at : at + count] = csr.column[source] - first
        value[at : at + count] = csr.value[source]
        row[rows] = rows.start + order
        row_ptr[rows.start + 1 : rows.stop + 1] = length[order]
        at += count
    np.cumsum(row_ptr, out=row_ptr)
    return SparseRows(row_ptr, place, value, first_column=first, row=None if in_order else row)


def _inside(csr: Csr, start: int, first: int, last: int) -> NDArray[np.int64]:
    """The nonzeros of a chunk of rows in columns [first, last)."""
    begin, end = csr.row_ptr[start], csr.row_ptr[min(start + CHUNK, csr.shape[0])]
    column = csr.column[begin:end]
    inside: NDArray[np.int64] = np.flatnonzero((column >= first) & (column < last)) + begin
    return inside


def gate_rows(csr: Csr) -> Csr:
    """An LSTM's recurrent matrix with the four gates of a chunk's units together: all of i, then f,
    g and o; the last chunk has empty rows for the units that it lacks."""
    units = csr.shape[0] // 4
    chunks, own = -(-units // (CHUNK // 4)), CHUNK // 4
    unit = np.arange(chunks)[:, None, None] * own + np.arange(own)
    gate = np.arange(4)[:, None] * units
    order = np.where(unit < units, gate + unit, csr.shape[0]).ravel()
    row_ptr, source = _taken(np.append(csr.row_ptr, csr.row_ptr[-1]), order)
    return Csr((len(order), csr.shape[1]), row_ptr, csr.column[source], csr.value[source])


def _taken(
    row_ptr: NDArray[np.int32], order: NDArray[Any]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The row_ptr of rows taken in another order, and where their nonzeros were."""
    length = np.diff(row_ptr)[order]
    taken = np.zeros(len(order) + 1, np.int32)
    np.cumsum(length, out=taken[1:])
    source = np.repeat(row_ptr[order] - taken[:-1], length)
    source += np.arange(taken[-1], dtype=np.int32)
    return taken, source


def _lane_groups(csr: Csr, order: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """group_ptr, and each row's first place in (steps, lanes), rows taken in ``order``."""
    groups = -(-len(order) // LANES)
    padded = np.zeros(groups * LANES, np.int64)
    padded[: len(order)] = np.diff(csr.row_ptr)[order]
    steps = padded.reshape(groups, LANES).max(axis=1, initial=0)
    group_ptr = np.zeros(groups + 1, np.int32)
    np.cumsum(steps, out=group_ptr[1:])
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    return group_ptr, group_ptr[position // LANES].astype(np.int64) * LANES + position % LANES


def _lane_places(csr: Csr, first: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Some nonzeros at a time, and their places: whole arrays of them take several times the memory
    of what is packed."""
    for start in range(0, len(first), ROWS_AT_ONCE):
        row_ptr = csr.row_ptr[start : start + ROWS_AT_ONCE + 1].astype(np.int64)
        place = np.arange(row_ptr[0], row_ptr[-1]) * LANES
        place += np.repeat(
            first[start : start + ROWS_AT_ONCE] - row_ptr[:-1] * LANES, np.diff(row_ptr)
        )
        yield slice(int(row_ptr[0]), int(row_ptr[-1])), place


def to_lanes(
    csr: Csr, bias: NDArray[np.float32] | None = None, activation: str = "none"
) -> LaneRows:
    """Eight rows a group, longest rows first, ties in row order; 8x1 blocks share their columns."""
    if _shares_columns(csr.row_ptr, csr.column):
        return _to_blocks(csr, bias, activation)
    order = np.argsort(-np.diff(csr.row_ptr), kind="stable")
    group_ptr, first = _lane_groups(csr, order)
    total = int(group_ptr[-1])
    column = np.full((total, LANES), csr.shape[1], np.uint16)
    value = np.zeros((total, LANES), np.float32)
    for some, place in _lane_places(csr, first):
        column.reshape(-1)[place] = csr.column[some]
        value.reshape(-1)[place] = csr.value[some]
    row = np.full((len(group_ptr) - 1) * LANES, -1, np.int32)
    row[: len(order)] = order
    return LaneRows(csr.shape, group_ptr, column, value, row, False, bias, activation)


def _shares_columns(row_ptr: NDArray[np.int32], column: Columns) -> bool:
    """Whether each eight rows from a multiple of eight have the same columns."""
    if (len(row_ptr) - 1) % LANES or len(column) == 0:
        return False
    lengths = np.diff(row_ptr).reshape(-1, LANES)
    if (lengths != lengths[:, :1]).any():
        return False
    starts = row_ptr[:-1].reshape(-1, LANES)
    within = np.arange(lengths.sum(axis=1).sum()) - np.repeat(row_ptr[:-1], lengths.ravel())
    first = np.repeat(np.repeat(starts[:, 0], LANES), lengths.ravel()) + within
    return bool((column == column[first]).all())


def _to_blocks(csr: Csr, bias: NDArray[np.float32] | None, activation: str) -> LaneRows:
    group_ptr, first = _lane_groups(csr, np.arange(csr.shape[0]))
    value = np.zeros((int(group_ptr[-1]), LANES), np.float32)
    column = np.zeros(int(group_ptr[-1]), np.uint16)
    for some, place in _lane_places(csr, first):
        column[place // LANES] = csr.column[some]
        value.reshape(-1)[place] = csr.value[some]
    row = np.arange(csr.shape[0], dtype=np.int32)
    return LaneRows(csr.shape, group_ptr, column, value, row, True, bias, activation)


def struct_array(structs: Sequence[Struct]) -> "ctypes.Array[Struct]":
    """The structures one after another, as a kernel reads them."""
    return (type(structs[0]) * len(structs))(*structs)
