"""The table that ``inspect`` and ``save`` show: one line a tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["TensorSummary", "render", "table"]


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a file. ``nnz`` counts elements that are not +0.0; ``nbytes`` is the size of
    its entry in the file, 0 for a tied tensor."""

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


def table(tensors: Sequence[TensorSummary], title: str) -> Any:
    """A rich table of the tensors."""
    from rich.table import Table

    result = Table(title=title, title_justify="left")
    result.add_column("tensor", overflow="fold")
    for heading in ("shape", "dtype", "sparsity", "NNZ", "coding", "bytes"):
        result.add_column(heading, justify="left" if heading == "coding" else "right")
    for each in tensors:
        result.add_row(
            each.name,
            "x".join(map(str, each.shape)) or "scalar",
            each.dtype,
            f"{each.sparsity:.2%}",
            f"{each.nnz:,}",
            each.coding,
            f"{each.nbytes:,}",
        )
    return result


def render(value: Any) -> str:
    """What rich would print for ``value``, as plain text."""
    from rich.console import Console

    console = Console(width=140, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(value)
    return capture.get().rstrip("\n")
