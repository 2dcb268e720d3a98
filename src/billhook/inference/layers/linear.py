"""Sparse linear layers: SpMV for one sample, SpMM on transposed panels for a batch."""

import threading
from collections.abc import Callable

import numpy as np
import torch

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.kernels import ISA_NAMES
from billhook.inference.layers.base import SparseLayer, Weight, check_input
from billhook.inference.weights.csr import Csr, SparseWeight, floats, to_csr
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS, LaneRows, to_lanes
from billhook.inference.weights.panels import BlockedRows, gate_rows, panel_rows

__all__ = ["SparseLinear", "SparseMatrix", "panel_width"]

WIDTHS = {
    "portable": (8, 16, 24, 32, 48, 64),
    "avx2": (8, 16, 24, 32, 48, 64),
    "avx512": (8, 16, 32, 48, 64),
}


def panel_width(samples: int, isa: int) -> int:
    """The panel's columns for a batch: as few as hold it, of the widths below.

    >>> [panel_width(n, 1) for n in (1, 8, 9, 20, 50, 1000)]
    [8, 8, 16, 24, 64, 64]
    >>> panel_width(20, 2)
    32
    """
    widths = WIDTHS[ISA_NAMES[isa]]
    return next((width for width in widths if width >= samples), widths[-1])


class SparseMatrix:
    """A packed (rows, columns) matrix and its product with vectors and batches.

    Packings are made when first needed and kept: one for single vectors, one a panel width.
    """

    def __init__(self, csr: Csr, bias: np.ndarray | None, isa: int) -> None:
        self.csr, self.bias, self.isa = csr, bias, isa
        self._blocks: dict[int, BlockedRows] = {}
        self._gates: dict[int, BlockedRows] = {}
        self._lanes: LaneRows | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of everything packed so far."""
        blocks = sum(rows.nbytes for rows in self._blocks.values())
        blocks += sum(rows.nbytes for rows in self._gates.values())
        return blocks + (0 if self._lanes is None else self._lanes.nbytes)

    def lanes(self) -> LaneRows:
        if self._lanes is None:
            with self._lock:
                self._lanes = self._lanes or to_lanes(self.csr, self.bias)
        return self._lanes

    def blocks(self, width: int) -> BlockedRows:
        """The matrix in blocks of columns for panels of ``width`` columns."""
        return self._packed(
            self._blocks, width, lambda: panel_rows(self.csr, width, self.bias, self.isa)
        )

    def gates(self, width: int) -> BlockedRows:
        """The same of an LSTM's recurrent matrix, the four gates of its units side by side."""
        return self._packed(
            self._gates, width, lambda: panel_rows(gate_rows(self.csr), width, None, self.isa)
        )

    def _packed(
        self, packings: dict[int, BlockedRows], width: int, pack: Callable[[], BlockedRows]
    ) -> BlockedRows:
        if width not in packings:
            with self._lock:
                if width not in packings:
                    packings[width] = pack()
        return packings[width]

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, columns) to (samples, rows); both fp32 on the CPU, x's rows contiguous."""
        y = x.new_empty(len(x), self.csr.shape[0])
        if len(x) == 1 and self.csr.shape[1] <= MAX_LANE_COLUMNS:
            kernels.spmv(self.lanes().struct, x, y, threads=torch.get_num_threads(), isa=self.isa)
        elif len(x):
            width = panel_width(len(x), self.isa)
            kernels.linear(
                self.blocks(width).struct,
                x,
                y,
                width=width,
                threads=torch.get_num_threads(),
                isa=self.isa,
            )
        return y

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """(..., columns) to (..., rows), whatever the strides of x."""
        rows, columns = self.csr.shape
        flat = x if x.dim() == 2 else x.reshape(-1, columns)
        if flat.is_neg() or flat.stride(1) != 1:
            flat = flat.resolve_neg().contiguous()
        y = self.multiply(flat)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], rows)


class SparseLinear(SparseLayer):
    """``y = x W^T + b`` with a pruned ``W``: what :class:`torch.nn.Linear` computes.

    Args:
        weight: (out_features, in_features); its zeros are skipped.
        bias: (out_features,) or None.
        isa: The instruction set, an index into ``kernels.ISA_NAMES``.

    >>> import torch
    >>> layer = SparseLinear(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, 5.0]), 0)
    >>> layer(torch.tensor([[3.0, 4.0]]))
    tensor([[9., 5.]])
    """

    def __init__(self, weight: Weight, bias: torch.Tensor | None, isa: int) -> None:
        csr = to_csr(weight)
        vectors = {} if bias is None else {"bias": bias.detach()}
        super().__init__({"weight": SparseWeight(csr.shape, csr), **vectors})
        self.out_features, self.in_features = csr.shape
        self.matrix = SparseMatrix(csr, floats(bias), isa)

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
