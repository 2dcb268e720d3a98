"""What the SpMM kernels read: CSR for panels, in blocks of columns, or for planes, with offsets."""

import ctypes
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from billhook.inference.kernels import (
    CONV_ACTIVATIONS,
    LANES,
    Array,
    BlocksStruct,
    SparseRowsStruct,
    pointer,
    struct_array,
)
from billhook.inference.weights import packing
from billhook.inference.weights.csr import Csr

__all__ = ["CHUNK", "BlockedRows", "SparseRows", "gate_rows", "panel_rows"]

CHUNK = 128  # rows sorted together by length; mirrored by f32_spmm.h


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

    @cached_property
    def struct(self) -> SparseRowsStruct:
        panel = self.place.dtype == np.uint16
        return SparseRowsStruct(
            rows=(len(self.row_ptr) - 1) * self.group,
            activation=CONV_ACTIVATIONS.index(self.activation),
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

    def as_csr(self, shape: tuple[int, int], nonzeros: int) -> Csr:
        """The compressed rows that panels were packed from."""
        return Csr(shape, *packing.rows_of_blocks(self.struct, shape, nonzeros))


@dataclass(frozen=True)
class GateRows(BlockedRows):
    """The blocks of an LSTM's recurrent matrix, its rows as :func:`gate_rows` orders them."""

    def as_csr(self, shape: tuple[int, int], nonzeros: int) -> Csr:
        order = _gate_order(shape[0] // 4)
        packed = super().as_csr((len(order), shape[1]), nonzeros)
        place = np.empty(shape[0], np.int64)
        place[order[order < shape[0]]] = np.flatnonzero(order < shape[0])
        return _taken(packed, packed.row_ptr, place)


def panel_rows(
    csr: Csr, width: int, bias: NDArray[np.float32] | None, isa: int, activation: str = "none"
) -> BlockedRows:
    """Rows whose operand is a panel of ``width`` columns, in blocks of matrix columns: the first
    adds the bias, the last applies the activation."""
    rows, columns = csr.shape
    block = packing.block_columns(rows, columns, csr.nnz, width, isa)
    shared = packing.shares_columns(csr.struct)
    parts = [
        _column_block(csr, first, min(first + block, columns), shared)
        for first in range(0, max(columns, 1), max(block, 1))
    ]
    parts[0] = replace(parts[0], bias=bias)
    parts[-1] = replace(parts[-1], activation=activation)
    return BlockedRows(tuple(parts))


def _column_block(csr: Csr, first: int, last: int, shared: bool) -> SparseRows:
    """Some columns of a panel's matrix: in groups of eight rows if they share their columns, else
    the rows of a chunk longest first."""
    row_ptr, column, value, row = packing.fill_block(csr.struct, first, last, shared)
    group = LANES if shared else 1
    return SparseRows(row_ptr, column, value, group=group, first_column=first, row=row)


def gate_rows(csr: Csr) -> Csr:
    """An LSTM's recurrent matrix with the four gates of a chunk's units together: all of i, then f,
    g and o; the last chunk has empty rows for the units that it lacks."""
    with_empty = np.append(csr.row_ptr, csr.row_ptr[-1])
    return _taken(csr, with_empty, _gate_order(csr.shape[0] // 4))


def _gate_order(units: int) -> NDArray[np.int64]:
    """The rows of a matrix of 4 units of rows in that order; 4 units for one that is empty."""
    chunks, own = -(-units // (CHUNK // 4)), CHUNK // 4
    unit = np.arange(chunks)[:, None, None] * own + np.arange(own)
    gate = np.arange(4)[:, None] * units
    return np.where(unit < units, gate + unit, 4 * units).ravel()


def _taken(csr: Csr, row_ptr: NDArray[Any], order: NDArray[np.int64]) -> Csr:
    """Rows, which begin and end where row_ptr says, in another order."""
    length = np.diff(row_ptr)[order]
    taken = np.zeros(len(order) + 1, np.int32)
    np.cumsum(length, out=taken[1:])
    source = np.repeat((row_ptr[order] - taken[:-1]).astype(np.int32), length)
    source += np.arange(taken[-1], dtype=np.int32)
    return Csr((len(order), csr.shape[1]), taken, csr.column[source], csr.value[source])
