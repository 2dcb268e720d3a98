"""The packed weights of the SpMV kernels: groups of eight rows, one lane each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from billhook.inference.kernels import ACTIVATIONS, LANES, Array, LaneRowsStruct, pointer
from billhook.inference.weights.csr import Csr, shares_columns

__all__ = ["MAX_LANE_COLUMNS", "LaneRows", "to_lanes"]

MAX_LANE_COLUMNS = 2**16 - 1  # uint16 columns, and one more for the fill
ROWS_AT_ONCE = 256  # that are packed


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

    def arrays(self) -> list[Array]:
        """All that a kernel reads."""
        arrays = (self.group_ptr, self.column, self.value, self.row, self.bias)
        return [array for array in arrays if array is not None]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


def to_lanes(
    csr: Csr, bias: NDArray[np.float32] | None = None, activation: str = "none"
) -> LaneRows:
    """Groups of eight rows, longest first, ties in row order; 8x1 blocks share their columns."""
    if shares_columns(csr.row_ptr, csr.column):
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


def _to_blocks(csr: Csr, bias: NDArray[np.float32] | None, activation: str) -> LaneRows:
    group_ptr, first = _lane_groups(csr, np.arange(csr.shape[0]))
    value = np.zeros((int(group_ptr[-1]), LANES), np.float32)
    column = np.zeros(int(group_ptr[-1]), np.uint16)
    for some, place in _lane_places(csr, first):
        column[place // LANES] = csr.column[some]
        value.reshape(-1)[place] = csr.value[some]
    row = np.arange(csr.shape[0], dtype=np.int32)
    return LaneRows(csr.shape, group_ptr, column, value, row, True, bias, activation)


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
