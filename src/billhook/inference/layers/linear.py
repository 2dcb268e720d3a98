"""Sparse linear layers: SpMV for one sample, SpMM on transposed panels for a batch."""

import threading
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.inputs import check_input
from billhook.inference.isa import lanes
from billhook.inference.layers.base import SparseLayer, Weight, Weights, sparse_weights, vector
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import SparseWeight, bytes_of, floats, sparse
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS, LaneRows, to_lanes
from billhook.inference.weights.panels import BlockedRows, GateRows, gate_rows, panel_rows

__all__ = ["SparseLinear", "SparseMatrix", "panel_width"]

# Widths of panels, by lanes of the instruction set.
WIDTHS = {8: (8, 16, 24, 32, 48, 64), 16: (8, 16, 32, 48, 64)}
# The panel's columns that the blocks are cut for. Panels of 8 to 64 columns run within a tenth of
# the speed they have with blocks of their own.
BLOCKS_FOR = 16

P = TypeVar("P", LaneRows, BlockedRows, GateRows)


def panel_width(samples: int, isa: int) -> int:
    """The panel's columns for a batch: as few as hold it, of the widths below.

    >>> [panel_width(n, 1) for n in (1, 8, 9, 20, 50, 1000)]
    [8, 8, 16, 24, 64, 64]
    >>> panel_width(20, 2)
    32
    """
    widths = WIDTHS[lanes(isa)]
    return next((width for width in widths if width >= samples), widths[-1])


class SparseMatrix:
    """A (rows, columns) matrix and its product with vectors and batches.

    Two packings are made when first needed and kept: one for single vectors, one for panels of any
    width, so that the memory does not grow with the sizes of batches. From the first one on the
    weight is held in a packing alone.
    """

    def __init__(self, weight: Weight, bias: np.ndarray | None, isa: int) -> None:
        self.weight, self.bias, self.isa = sparse(weight), bias, isa
        self._lanes: LaneRows | None = None
        self._blocks: BlockedRows | None = None
        self._gates: GateRows | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.weight, self.bias, self.isa)

    @property
    def nbytes(self) -> int:
        """Bytes of its nonzeros in each layout that they are held in, and of its bias."""
        packings = [rows for rows in (self._lanes, self._blocks, self._gates) if rows is not None]
        return bytes_of(array for rows in (self.weight, *packings) for array in rows.arrays())

    def lanes(self) -> LaneRows:
        """The matrix for single vectors."""
        with self._lock:
            if self._lanes is None:
                self._lanes = self._hold(to_lanes(self.weight.csr, self.bias))
            return self._lanes

    def blocks(self) -> BlockedRows:
        """The matrix in blocks of columns, for panels."""
        with self._lock:
            if self._blocks is None:
                rows = panel_rows(self.weight.csr, BLOCKS_FOR, self.bias, self.isa)
                self._blocks = self._hold(rows)
            return self._blocks

    def gates(self) -> GateRows:
        """The same of an LSTM's recurrent matrix, the four gates of its units side by side."""
        with self._lock:
            if self._gates is None:
                rows = panel_rows(gate_rows(self.weight.csr), BLOCKS_FOR, None, self.isa)
                self._gates = self._hold(GateRows(rows.blocks))
            return self._gates

    def _hold(self, rows: P) -> P:
        """From now on these are the weight."""
        self.weight.held = rows
        return rows

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, columns) to (samples, rows); both fp32 on the CPU, x's rows contiguous."""
        y = x.new_empty(len(x), self.weight.shape[0])
        if len(x) == 1 and self.weight.shape[1] <= MAX_LANE_COLUMNS:
            kernels.spmv(self.lanes().struct, x, y, threads=torch.get_num_threads(), isa=self.isa)
        elif len(x):
            width = panel_width(len(x), self.isa)
            kernels.linear(
                self.blocks().struct,
                x,
                y,
                width=width,
                threads=torch.get_num_threads(),
                isa=self.isa,
            )
        return y

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """(..., columns) to (..., rows), whatever the strides of x."""
        rows, columns = self.weight.shape
        flat = x if x.dim() == 2 else x.reshape(-1, columns)
        if flat.is_neg() or flat.stride(1) != 1:
            flat = flat.resolve_neg().contiguous()
        y = self.multiply(flat)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], rows)


def _again(weight: SparseWeight, bias: np.ndarray | None, isa: int) -> SparseMatrix:
    """A copy, with this machine's kernels if it comes from a better one."""
    return SparseMatrix(weight, bias, kernels.runnable(isa))


class SparseLinear(SparseLayer):
    """``y = x W^T + b`` with a pruned ``W``: what :class:`torch.nn.Linear` computes.

    Args:
        weight: (out_features, in_features); its zeros are skipped.
        bias: (out_features,) or None.
        isa: The instruction set, a row of the library's table.

    >>> import torch
    >>> layer = SparseLinear(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, 5.0]), 0)
    >>> layer(torch.tensor([[3.0, 4.0]]))
    tensor([[9., 5.]])
    """

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        return (nn.Linear,)

    @classmethod
    def make(cls, module: nn.Module, _: Choice, isa: int, weights: Weights | None) -> Self:
        own = sparse_weights(module, cls.weight_names(module)) if weights is None else weights
        return cls(own["weight"], vector(own, "bias"), isa)

    def __init__(self, weight: Weight, bias: torch.Tensor | None, isa: int) -> None:
        own = sparse(weight)
        vectors = {} if bias is None else {"bias": bias.detach()}
        super().__init__({"weight": own, **vectors})
        self.out_features, self.in_features = own.shape
        self.matrix = SparseMatrix(own, floats(bias), isa)

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        check_input("SparseLinear", x)
        if x.shape[-1:] != (self.in_features,):
            raise ConfigurationError(
                f"the input's last dimension is {tuple(x.shape[-1:])}, "
                f"this layer takes {self.in_features} features"
            )
        return self.matrix.apply(x)
