"""The table that ``inspect`` and ``save`` show: one line per tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from billhook.format.dtypes import element_shape, width
from billhook.format.entropy import mask_floor_bits

__all__ = ["TensorSummary", "table"]


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a file.

    ``dtype`` is its dtype, followed by ``:`` and that of the stored values where it is another.
    ``nnz`` counts elements that are not +0.0, None where this release knows no such dtype or
    coding; ``nbytes`` is the size of its entry in the file, 0 for a tied tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nnz: int | None
    coding: str
    nbytes: int

    @property
    def numel(self) -> int:
        """Elements; of F4, which has two to a byte, bytes."""
        kind = self.dtype.partition(":")[0]
        return math.prod(element_shape(self.shape, kind))

    @property
    def sparsity(self) -> float | None:
        """``1 - nnz / numel``; 0 for an empty tensor, None where ``nnz`` is not known.

        >>> TensorSummary("w", "F32", (4, 5), 5, "bitmask", 23).sparsity
        0.75
        """
        if self.nnz is None:
            return None
        return 1 - self.nnz / self.numel if self.numel else 0.0

    @property
    def floor_bytes(self) -> int:
        """Values and the Bernoulli entropy of the mask, in whole bytes: the least a coding that
        knows only the density can need on average, for values that do not compress.

        >>> TensorSummary("w", "F32", (10, 100), 100, "bitmask", 525).floor_bytes  # 400 + 469 / 8
        459
        """
        if not self.nbytes or self.nnz is None:
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
            "" if each.sparsity is None else f"{each.sparsity:.2%}",
            "" if each.nnz is None else f"{each.nnz:,}",
            each.coding,
            f"{each.nbytes:,}",
            f"{each.floor_bytes:,}",
        )
        for each in tensors
    ]
    headings = "tensor", "shape", "dtype", "sparsity", "NNZ", "coding", "bytes", "floor"
    return Table(title, headings, rows)
