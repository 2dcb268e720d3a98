"""Dense weights to the nonzeros that every layout is made of, and back from each layout.

A weight that runs is held in one layout at least, and its compressed rows only until it has been
packed: whoever asks for them later gets them made of what the kernels read, bit for bit.

Zeros are dropped, so a pruned weight contributes nothing, whatever its input (a dense layer makes
0 * inf = NaN); every other value is kept bit for bit.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError
from billhook.inference.kernels import Array, pointer
from billhook.inference.weights.packing import CsrStruct

__all__ = [
    "Csr",
    "Layout",
    "SparseWeight",
    "bytes_of",
    "column_blocks",
    "csr_for",
    "floats",
    "narrow",
    "sparse",
    "to_csr",
]

Columns = NDArray[np.int32] | NDArray[np.uint16]  # the narrower one where all columns fit


class Layout(Protocol):
    """The nonzeros of a matrix as some kernel reads them."""

    def arrays(self) -> list[Array]:
        """All the memory that it takes."""

    def as_csr(self, shape: tuple[int, int], nonzeros: int) -> "Csr":
        """The compressed rows of the matrix of this shape that it was made of."""


def bytes_of(arrays: Iterable[Array]) -> int:
    """Bytes of arrays, each array once."""
    return sum(array.nbytes for array in {id(array): array for array in arrays}.values())


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

    @property
    def struct(self) -> CsrStruct:
        """The structure that points to the arrays, for as long as these live."""
        narrow = self.column.dtype == np.uint16
        return CsrStruct(
            rows=self.shape[0],
            columns=self.shape[1],
            row_ptr=pointer(self.row_ptr),
            narrow=pointer(self.column) if narrow else None,
            wide=None if narrow else pointer(self.column),
            value=pointer(self.value),
        )

    def arrays(self) -> list[Array]:
        """All the memory that it takes."""
        return [self.row_ptr, self.column, self.value]

    def as_csr(self, _: tuple[int, int], __: int, /) -> "Csr":
        """Itself."""
        return self


class SparseWeight:
    """A pruned weight that is never dense: its nonzeros in some layout, all dimensions but the
    first flattened into the columns.

    Args:
        shape: Of the dense weight.
        csr: Its nonzeros, held until :attr:`held` is another layout of the same.
    """

    def __init__(self, shape: tuple[int, ...], csr: Csr) -> None:
        self.shape, self.nonzeros = shape, csr.nnz
        self.held: Layout = csr

    def __reduce__(self) -> tuple[Any, ...]:
        return SparseWeight, (self.shape, self.csr)

    @property
    def csr(self) -> Csr:
        """Its compressed rows."""
        return self.held.as_csr((self.shape[0], math.prod(self.shape[1:])), self.nonzeros)

    def arrays(self) -> list[Array]:
        """All the memory that it takes."""
        return self.held.arrays()

    def dense(self) -> torch.Tensor:
        """The weight with its zeros.

        >>> weight = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
        >>> torch.equal(SparseWeight((2, 2), to_csr(weight)).dense(), weight)
        True
        """
        csr = self.csr
        values = np.zeros(csr.shape, np.float32)
        values[np.repeat(np.arange(csr.shape[0]), np.diff(csr.row_ptr)), csr.column] = csr.value
        return torch.from_numpy(values).view(self.shape)


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


def sparse(weight: torch.Tensor | SparseWeight) -> SparseWeight:
    """The nonzeros of a weight: those of a tensor in new memory."""
    if isinstance(weight, SparseWeight):
        return weight
    return SparseWeight(tuple(weight.shape), to_csr(weight))


def csr_for(weight: torch.Tensor | SparseWeight, dense: bool) -> Csr:
    """The weights that a kernel reads, row-major: all of them if it runs dense."""
    if not dense:
        return to_csr(weight)
    assert isinstance(weight, torch.Tensor), "a layer was packed, and is to run dense"
    rows, columns = len(weight), weight[0].numel()
    row_ptr = np.arange(rows + 1, dtype=np.int64) * columns
    if row_ptr[-1] >= 2**31:
        raise ConfigurationError(f"a weight has {row_ptr[-1]} numbers, kernels count to 2**31")
    column = narrow(np.tile(np.arange(columns, dtype=np.int32), rows), columns)
    value = np.array(weight.detach().to("cpu", torch.float32).contiguous().numpy()).reshape(-1)
    return Csr((rows, columns), row_ptr.astype(np.int32), column, value)


def column_blocks(csr: Csr, most: int) -> list[tuple[int, Csr]]:
    """The matrix in blocks of at most so many columns, each with its first one.

    >>> [(first, block.column.tolist()) for first, block in column_blocks(to_csr(torch.eye(3)), 2)]
    [(0, [0, 1]), (2, [0])]
    """
    rows, columns = csr.shape
    if columns <= most:
        return [(0, csr)]
    blocks = []
    for first in range(0, columns, most):
        inside = (csr.column >= first) & (csr.column < first + most)
        before = np.concatenate([[0], np.cumsum(inside)])
        width = min(most, columns - first)
        column = narrow(csr.column[inside].astype(np.int32) - first, width)
        row_ptr = before[csr.row_ptr].astype(np.int32)
        blocks.append((first, Csr((rows, width), row_ptr, column, csr.value[inside])))
    return blocks


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
