"""The shape of what is pruned together: frozen value objects that turn scores into a mask."""

import dataclasses
from typing import Protocol

from torch import Tensor

from billhook.mask import select, survivors

__all__ = ["Granularity", "Unstructured"]


class Granularity(Protocol):
    """Any object of this signature; its ``repr`` is its configuration in checkpoints."""

    def mask(self, scores: Tensor, sparsity: float) -> Tensor:
        """The bool mask (True = kept) of ``scores``' shape that has ``sparsity``."""


@dataclasses.dataclass(frozen=True)
class Unstructured:
    """Single weights: exactly ``round((1 - s) * n)`` of n survive, whatever the ties.

    >>> import torch
    >>> Unstructured().mask(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), 0.5)
    tensor([[ True, False],
            [ True, False]])
    """

    def mask(self, scores: Tensor, sparsity: float) -> Tensor:
        return select(scores, survivors(scores.numel(), sparsity))
