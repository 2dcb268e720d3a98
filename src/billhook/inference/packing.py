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
# Panel floats in use at a time (the first-level cache), beyond which panels of more than 16 columns
# are cut into blocks of matrix columns, as long as a row still has this many nonzeros in a block.
PANEL_FLOATS = 8192
MIN_NONZEROS = 12
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
    """The arrays of csrc's SparseRows, and the structure that points to them."""

    row_ptr: NDArray[np.int32]
    offset: NDArray[np.int32]
    value: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activation: str = "none"
    group: int = 1

    def grouped(self) -> "SparseRows":
        """The same in groups of eight rows, if each eight have the same offsets.

        >>> rows = to_csr(torch.ones(8, 2)), 1, None
        >>> with_width(*rows).grouped().offset.tolist()
        [0, 1]
        """
        if self.group != 1 or not _shares_columns(self.row_ptr, self.offset):
            return self
        row_ptr = self.row_ptr[::LANES] // LANES
        first = self.row_ptr[:-1:LANES].repeat(np.diff(row_ptr))
        within = np.arange(row_ptr[-1]) - row_ptr[:-1].repeat(np.diff(row_ptr))
        length = np.diff(row_ptr).repeat(np.diff(row_ptr))
        place = (first + within)[:, None] + length[:, None] * np.arange(LANES)
        return replace(
            self,
            row_ptr=row_ptr.astype(np.int32),
            offset=self.offset[first + within],
            value=self.value[place],
            group=LANES,
        )

    @cached_property
    def struct(self) -> SparseRowsStruct:
        return SparseRowsStruct(
            rows=(len(self.row_ptr) - 1) * self.group,
            activation=ACTIVATIONS.index(self.activation),
            group=self.group,
            row_ptr=pointer(self.row_ptr),
            offset=pointer(self.offset),
            value=pointer(self.value),
            bias=pointer(self.bias),
        )

    @property
    def nbytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.row_ptr.nbytes + self.offset.nbytes + self.value.nbytes + bias


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


def with_width(
    csr: Csr, width: int, bias: NDArray[np.float32] | None, activation: str = "none"
) -> SparseRows:
    """Rows whose operand is a panel of ``width`` columns: a nonzero's offset is column * width."""
    offset = csr.column * np.int32(width)
    return SparseRows(csr.row_ptr, offset, csr.value, bias, activation)


def panel_rows(
    csr: Csr, width: int, bias: NDArray[np.float32] | None, activation: str = "none"
) -> BlockedRows:
    """The same in blocks of columns: the first adds the bias, the last applies the activation."""
    rows, columns = csr.shape
    block = columns
    if width > 2 * LANES and csr.nnz:
        block = max(PANEL_FLOATS // width, MIN_NONZEROS * rows * columns // csr.nnz)
    parts = [csr] if block >= columns else _column_blocks(csr, block)
    last = len(parts) - 1
    return BlockedRows(
        tuple(
            with_width(
                p, width, bias if i == 0 else None, activation if i == last else "none"
            ).grouped()
            for i, p in enumerate(parts)
        )
    )


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


def _column_blocks(csr: Csr, block: int) -> list[Csr]:
    """The matrix in equal blocks of at most ``block`` columns; columns keep their numbers."""
    row = np.repeat(np.arange(csr.shape[0]), np.diff(csr.row_ptr))
    block = -(-csr.shape[1] // -(-csr.shape[1] // block))
    parts = []
    for start in range(0, csr.shape[1], block):
        inside = (csr.column >= start) & (csr.column < start + block)
        row_ptr = np.zeros(csr.shape[0] + 1, np.int32)
        np.cumsum(np.bincount(row[inside], minlength=csr.shape[0]), out=row_ptr[1:])
        parts.append(Csr(csr.shape, row_ptr, csr.column[inside], csr.value[inside]))
    return parts


def struct_array(structs: Sequence[Struct]) -> "ctypes.Array[Struct]":
    """The structures one after another, as a kernel reads them."""
    return (type(structs[0]) * len(structs))(*structs)
