"""What a weight is worth: criteria map a weight to scores, and the smallest scores are pruned."""

import dataclasses
import zlib
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Criterion", "Magnitude", "Random"]


class Criterion(Protocol):
    """Any callable of this signature; its ``repr`` is its configuration in checkpoints."""

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:
        """Scores of ``weight``.

        Args:
            weight: the raw weight, pruned places included, any floating dtype.
            grad: the gradient of the last step where there is one; zero at pruned places.
            name: the tensor's canonical name.

        Returns:
            fp32 scores of ``weight``'s shape on its device. NaN is an error, infinities are not.
        """


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """The paper's criterion: ``score = |w|``.

    >>> Magnitude()(torch.tensor([0.5, -2.0]), None, "weight")
    tensor([0.5000, 2.0000])
    """

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:  # noqa: ARG002
        return weight.detach().to(torch.float32).abs()


@dataclasses.dataclass(frozen=True)
class Random:
    """The control experiment: scores drawn once per tensor from ``seed`` and its name.

    The draw does not depend on the step, device or rank, so masks of rising sparsity are nested.

    >>> scores = Random(seed=1)(torch.zeros(2, 3), None, "weight")
    >>> scores.shape, torch.equal(scores, Random(seed=1)(torch.ones(2, 3), None, "weight"))
    (torch.Size([2, 3]), True)
    """

    seed: int = 0

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:  # noqa: ARG002
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))
        return torch.rand(weight.shape, generator=generator).to(weight.device)
