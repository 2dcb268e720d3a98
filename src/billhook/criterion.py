"""What a weight is worth: criteria map a weight to scores, and the smallest scores are pruned."""

import dataclasses
import zlib
from typing import Protocol

import torch
from torch import Tensor

from billhook.backends.portable import there
from billhook.errors import MaskError

__all__ = ["Criterion", "Magnitude", "Random", "check_scores"]


class Criterion(Protocol):
    """Any callable of this signature; its ``repr`` is its configuration in checkpoints."""

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:
        """Scores of ``weight``.

        Args:
            weight: the raw weight, pruned places included, any floating dtype.
            grad: the gradient of the last step where there is one; zero at pruned places.
            name: the tensor's canonical name.

        Returns:
            fp32 scores of ``weight``'s shape on its device. Anything else, NaN included, is an
            error; infinities keep or prune a weight whatever the others are.
        """


def check_scores(scores: object, weight: Tensor, name: str) -> Tensor:
    """``scores``, after a check of type, dtype, shape and device (see :class:`Criterion`).

    Called at every mask update: a kernel would misread scores of another dtype or device.
    NaN is found where the scores are ranked, in the same pass.

    Raises:
        MaskError: the message names the tensor, what came back and what to return instead.

    >>> check_scores(torch.ones(2, dtype=torch.bfloat16), torch.ones(2), "weight")
    Traceback (most recent call last):
    ...
    billhook.errors.MaskError: the criterion's scores for 'weight' have dtype torch.bfloat16, not \
torch.float32: compute on weight.float(), or return scores.float()
    """
    if not isinstance(scores, Tensor):
        raise MaskError(
            f"the criterion returned a {type(scores).__name__} for {name!r}: return a tensor of "
            f"one score for each weight, of shape {tuple(weight.shape)}"
        )
    complex_too = "complex numbers have no order, return .abs() of them"
    as_float = "compute on weight.float(), or return scores.float()"
    for aspect, found, wanted, fix in (
        ("shape", tuple(scores.shape), tuple(weight.shape), "return one score for each weight"),
        ("dtype", scores.dtype, torch.float32, complex_too if scores.is_complex() else as_float),
        ("device", scores.device, weight.device, "return scores.to(weight.device)"),
        ("layout", scores.layout, torch.strided, "return scores.to_dense()"),
    ):
        if found != wanted:
            raise MaskError(
                f"the criterion's scores for {name!r} have {aspect} {found}, not {wanted}: {fix}"
            )
    return scores


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
        scores = torch.rand(weight.shape, generator=generator, device="cpu")
        return there(scores, weight.device)
