"""The table that ``inspect`` and ``save`` show: one line a tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from billhook.format.dtypes import width
from billhook.format.entropy import mask_floor_bits

__all__ = ["TensorSummary", "table"]


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a file.

    ``dtype`` is its dtype, followed by ``:`` and that of the stored values where it is another.
    ``nnz`` counts elements that are not +0.0; ``nbytes`` is the size of its entry in the file, 0
    for a tied tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nnz: int
    coding: str
    nbytes: int

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """``1 - nnz / numel``; 0 for an empty tensor.

        >>> TensorSummary("w", "F32", (4, 5), 5, "bitmask", 23).sparsity
        0.75
        """
        return 1 - self.nnz / self.numel if self.numel else 0.0

    @property
    def floor_bytes(self) -> int:
        """Values and the Bernoulli entropy of the mask, in whole bytes: the least a coding that
        knows only the density can need on average, for values that do not compress.

        >>> TensorSummary("w", "F32", (10, 100), 100, "bitmask", 525).floor_bytes  # 400 + 469 / 8
        459
        """
        if not self.nbytes:
            return 0
        _, _, values = self.dtype.rpartition(":")
        return self.nnz * width(values) + math.ceil(mask_floor_bits(self.numel, self.nnz) / 8)


def table(tensors: Sequence[TensorSummary], title: str) -> Any:
    """A rich table of the tensors."""
    from billhook.render import Table

    rows = [
        (
            each.name,
            "x".join(map(str, each.shape)) or "scalar",
            each.dtype,
            f"{each.sparsity:.2%}",
            f"{each.nnz:,}",
            each.coding,
            f"{each.nbytes:,}",
            f"{each.floor_bytes:,}",
        )
        for each in tensors
    ]
    headings = "tensor", "shape", "dtype", "sparsity", "NNZ", "coding", "bytes", "floor"
    return Table(title, headings, rows)
