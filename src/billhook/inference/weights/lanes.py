"""The packed weights of the SpMV kernels: groups of eight rows, one lane each."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from billhook.inference.kernels import ACTIVATIONS, Array, LaneRowsStruct, pointer
from billhook.inference.weights import packing
from billhook.inference.weights.csr import Csr

__all__ = ["MAX_LANE_COLUMNS", "LaneRows", "to_lanes"]

MAX_LANE_COLUMNS = 2**16 - 1  # uint16 columns, and one more for the fill


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

    def as_csr(self, shape: tuple[int, int], nonzeros: int) -> Csr:
        """The compressed rows that they were packed from."""
        return Csr(shape, *packing.rows_of_lanes(self.struct, nonzeros))


def to_lanes(
    csr: Csr, bias: NDArray[np.float32] | None = None, activation: str = "none"
) -> LaneRows:
    """Groups of eight rows, longest first, ties in row order; 8x1 blocks share their columns."""
    shared = packing.shares_columns(csr.struct)
    arrays = packing.lanes(csr.struct, shared)
    return LaneRows(csr.shape, *arrays, shared, bias, activation)
