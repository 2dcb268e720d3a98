"""The report of a pruner: counts, tensor by tensor."""

import dataclasses
import math
from collections.abc import Iterator

from billhook.render import Table, as_text

__all__ = ["PruningReport", "TensorReport"]


@dataclasses.dataclass(frozen=True)
class TensorReport:
    """One pruned tensor. ``nonzero`` is counted in the weight, ``kept`` in the mask."""

    name: str
    shape: tuple[int, ...]
    kept: int
    nonzero: int
    target: float

    @property
    def numel(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """The share of weights that the mask holds at zero."""
        return 1.0 - self.kept / self.numel if self.numel else 0.0


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """The state of a pruner after ``step`` optimizer steps; prints as a table."""

    step: int
    tensors: tuple[TensorReport, ...]

    def __iter__(self) -> Iterator[TensorReport]:
        return iter(self.tensors)

    @property
    def numel(self) -> int:
        """The number of weights in all pruned tensors."""
        return sum(row.numel for row in self)

    @property
    def nonzero(self) -> int:
        """NNZ over all pruned tensors."""
        return sum(row.nonzero for row in self)

    @property
    def sparsity(self) -> float:
        """The share of weights that the masks hold at zero, over all pruned tensors."""
        return 1.0 - sum(row.kept for row in self) / self.numel if self.numel else 0.0

    def __rich__(self) -> Table:
        title = f"step {self.step:,}: {self.sparsity:.2%} of {self.numel:,} masked"
        rows = [
            (
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.nonzero:,}",
                f"{row.sparsity:.2%}",
                f"{row.target:.2%}",
            )
            for row in self
        ]
        return Table(title, ("tensor", "shape", "nonzero", "sparsity", "final"), rows)

    def __str__(self) -> str:
        return as_text(self)
