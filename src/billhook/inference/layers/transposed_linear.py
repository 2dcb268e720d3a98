"""The linear layer of GPT-2 and its kin, transformers' ``Conv1D``: its weight is (in, out)."""

import sys
from typing import Any, Self

import numpy as np
from torch import nn

from billhook.inference.layers.base import Weights, sparse_weights, vector
from billhook.inference.layers.linear import SparseLinear
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import Csr, SparseWeight, narrow

__all__ = ["SparseTransposedLinear"]


class SparseTransposedLinear(SparseLinear):
    """``y = x W + b`` with a pruned ``W``: what ``transformers.pytorch_utils.Conv1D`` computes.

    Args:
        weight: (in_features, out_features); its zeros are skipped.
        bias: (out_features,) or None.
        isa: The instruction set, a row of the library's table.
    """

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        """transformers' class where it is imported: otherwise there is no such layer."""
        module = sys.modules.get("transformers.pytorch_utils")
        return () if module is None else (module.Conv1D,)

    @classmethod
    def make(cls, module: nn.Module, _: Choice, isa: int, weights: Weights | None) -> Self:
        own = sparse_weights(module, cls.weight_names(module)) if weights is None else weights
        weight = own["weight"]
        assert isinstance(weight, SparseWeight)
        rows, columns = weight.shape
        run = SparseWeight((columns, rows), transposed(weight.csr))
        layer = cls(run, vector(own, "bias"), isa)
        layer.weights["weight"] = Transposed(run)
        return layer


class Transposed(SparseWeight):
    """The transpose of another weight, which alone is held."""

    def __init__(self, of: SparseWeight) -> None:
        self.of, self.shape, self.nonzeros = of, of.shape[::-1], of.nonzeros

    def __reduce__(self) -> tuple[Any, ...]:
        return Transposed, (self.of,)

    @property
    def csr(self) -> Csr:
        return transposed(self.of.csr)


def transposed(csr: Csr) -> Csr:
    """The transposed matrix.

    >>> import torch
    >>> from billhook.inference.weights.csr import to_csr
    >>> csr = transposed(to_csr(torch.tensor([[1.0, 2.0], [0.0, 3.0]])))
    >>> csr.row_ptr.tolist(), csr.column.tolist(), csr.value.tolist()
    ([0, 1, 3], [0, 0, 1], [1.0, 2.0, 3.0])
    """
    rows, columns = csr.shape
    order = np.argsort(csr.column, kind="stable")
    row_ptr = np.zeros(columns + 1, np.int32)
    np.cumsum(np.bincount(csr.column, minlength=columns), out=row_ptr[1:])
    row = np.repeat(np.arange(rows), np.diff(csr.row_ptr))[order]
    return Csr((columns, rows), row_ptr, narrow(row, rows), csr.value[order])
