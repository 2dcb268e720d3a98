"""What the SpMM kernels read: CSR for panels, in blocks of columns, or for planes, with offsets."""

import ctypes
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from billhook.inference.kernels import (
    ACTIVATIONS,
    ISA_NAMES,
    LANES,
    Array,
    BlocksStruct,
    SparseRowsStruct,
    pointer,
    struct_array,
)
from billhook.inference.weights.csr import Csr, shares_columns

__all__ = ["CHUNK", "BlockedRows", "SparseRows", "gate_rows", "panel_rows"]

CHUNK = 128  # rows sorted together by length; mirrored by f32_spmm.h
# Panel floats in use at a time (the first-level cache), beyond which panels are cut into blocks of
# matrix columns, as long as a row still has this many nonzeros in a block.
PANEL_FLOATS = {"portable": 8192, "avx2": 8192, "avx512": 12288}
MIN_NONZEROS = 12
MAX_COLUMNS = 2**16  # of a block


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

        >>> import torch
        >>> from billhook.inference.weights.csr import to_csr
        >>> csr = to_csr(torch.ones(8, 2))
        >>> SparseRows(csr.row_ptr, csr.column, csr.value).grouped().place.tolist()
        [0, 1]
        """
        if self.group != 1 or not shares_columns(self.row_ptr, self.place):
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

    def arrays(self) -> list[Array]:
        """All that a kernel reads."""
        arrays = (self.row_ptr, self.place, self.value, self.bias, self.row)
        return [array for array in arrays if array is not None]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


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

    def arrays(self) -> list[Array]:
        """All that a kernel reads."""
        return [array for block in self.blocks for array in block.arrays()]

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)


def panel_rows(
    csr: Csr, width: int, bias: NDArray[np.float32] | None, isa: int, activation: str = "none"
) -> BlockedRows:
    """Rows whose operand is a panel of ``width`` columns, in blocks of matrix columns: the first
    adds the bias, the last applies the activation."""
    rows, columns = csr.shape
    block = max(
        PANEL_FLOATS[ISA_NAMES[isa]] // width, MIN_NONZEROS * rows * columns // max(csr.nnz, 1)
    )
    count = max(1, -(-columns // min(block, MAX_COLUMNS)))
    block = -(-columns // count)
    shared = shares_columns(csr.row_ptr, csr.column)
    parts = [_column_block(csr, i * block, (i + 1) * block, shared) for i in range(count)]
    parts[0] = replace(parts[0], bias=bias)
    parts[-1] = replace(parts[-1], activation=activation)
    return BlockedRows(tuple(part.grouped() if shared else part for part in parts))


def _column_block(csr: Csr, first: int, last: int, in_order: bool) -> SparseRows:
    """Some columns of a panel's matrix; the rows of a chunk longest first unless ``in_order``.

    >>> import torch
    >>> from billhook.inference.weights.csr import to_csr
    >>> csr = to_csr(torch.tensor([[1.0, 0, 2], [0, 3, 4]]))
    >>> rows = _column_block(csr, 1, 3, in_order=False)
    >>> rows.row.tolist(), rows.place.tolist(), rows.value.tolist()
    ([1, 0], [0, 1, 1], [3.0, 4.0, 2.0])
    """
    chunks = [slice(r, min(r + CHUNK, csr.shape[0])) for r in range(0, csr.shape[0], CHUNK)]
    total = sum(len(_inside(csr, chunk, first, last)) for chunk in chunks)
    place, value = np.empty(total, np.uint16), np.empty(total, np.float32)
    row_ptr, row = np.zeros(csr.shape[0] + 1, np.int32), np.arange(csr.shape[0], dtype=np.int32)
    for chunk in chunks:  # arrays of all nonzeros would take several times the memory
        inside = _inside(csr, chunk, first, last)
        starts = np.searchsorted(inside, csr.row_ptr[chunk.start : chunk.stop + 1])
        length = np.diff(starts)
        order = np.arange(len(length)) if in_order else np.argsort(-length, kind="stable")
        taken, source = _taken(starts, order)
        own = slice(row_ptr[chunk.start], row_ptr[chunk.start] + len(inside))
        place[own] = csr.column[inside[source]] - first
        value[own] = csr.value[inside[source]]
        row[chunk] = chunk.start + order
        row_ptr[chunk.start + 1 : chunk.stop + 1] = own.start + taken[1:]
    return SparseRows(row_ptr, place, value, first_column=first, row=None if in_order else row)


def _inside(csr: Csr, rows: slice, first: int, last: int) -> NDArray[np.int64]:
    """The nonzeros of some rows in columns [first, last)."""
    begin, end = csr.row_ptr[rows.start], csr.row_ptr[rows.stop]
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
    row_ptr: NDArray[Any], order: NDArray[Any]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The row_ptr of rows taken in another order, and where their nonzeros were."""
    length = np.diff(row_ptr)[order]
    taken = np.zeros(len(order) + 1, np.int32)
    np.cumsum(length, out=taken[1:])
    source = np.repeat((row_ptr[order] - taken[:-1]).astype(np.int32), length)
    source += np.arange(taken[-1], dtype=np.int32)
    return taken, source
