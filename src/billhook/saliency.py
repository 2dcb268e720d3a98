"""Criteria that look at more than the weight: gradients averaged over steps, and layer inputs.

They are averaged from one mask update to the next, and the pruner's checkpoint holds the averages.
The gradients are those the optimizer sees, so the gradient of a masked weight is zero.
"""

import abc
import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from billhook import torch_private
from billhook.errors import ConfigurationError, MaskError

__all__ = ["Averaged", "FirstOrder", "Fisher", "Movement", "Wanda"]


class Averaged(abc.ABC):
    """Base of criteria that are averaged over optimizer steps: define ``observe``.

    Where the average is not yet the score, define ``score`` too.

    >>> import torch
    >>> @dataclasses.dataclass(frozen=True)
    ... class GradientNorm(Averaged):
    ...     def observe(self, weight, grad):
    ...         return grad.float().abs()
    >>> GradientNorm()(torch.ones(2), torch.tensor([3.0, -4.0]), "weight")
    tensor([3., 4.])
    """

    #: What it looks at besides the weight: the ``"gradient"`` or the layer's ``"inputs"``.
    needs: ClassVar[str] = "gradient"
    #: Whether the average starts anew after each mask update.
    starts_anew: ClassVar[bool] = True

    @property
    def last(self) -> int | None:
        """The number of steps before an update that count; None: all since the last update."""
        return None

    @abc.abstractmethod
    def observe(self, weight: Tensor, grad: Tensor) -> Tensor:
        """The values that one step adds to the average, element by element.

        Args:
            weight: as the model sees it, masked weights zero; of a sharded one this rank's part.
            grad: its gradient, right before the optimizer's step.

        Returns:
            fp32, of the weight's shape.
        """

    def score(self, weight: Tensor, mean: Tensor) -> Tensor:  # noqa: ARG002 - some need it
        """The fp32 scores, from the raw weight and the average of what was observed."""
        return mean

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:
        """The scores from a single gradient."""
        if grad is None:
            raise MaskError(
                f"{self} needs a gradient of {name!r}, and there is none yet: the first mask "
                "update has to come after a step, so use begin_step=1 or later"
            )
        return self.score(weight.detach(), self.observe(weight.detach(), grad))


@dataclasses.dataclass(frozen=True)
class FirstOrder(Averaged):
    """How much the loss changes if a weight is removed, to first order: ``mean(|w * dL/dw|)``.

    The mean is over the steps since the last mask update. The gradient of a masked weight is zero,
    so it does not return.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", by single weights.

    >>> import torch
    >>> FirstOrder()(torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 0.5]), "weight")
    tensor([2.0000, 1.5000])
    """

    def observe(self, weight: Tensor, grad: Tensor) -> Tensor:
        return (weight.float() * grad.float()).abs()


@dataclasses.dataclass(frozen=True)
class Fisher(Averaged):
    """The diagonal of the empirical Fisher matrix: ``score = w ** 2 * (damp + mean(g ** 2))``.

    To second order this is what the loss gains when the weight is removed and no other is moved
    (up to a factor of 2): the optimal brain surgeon with blocks of one weight.

    Args:
        damp: added to the mean, so that weights without gradients are ranked by magnitude.
        gradients: the number of steps before an update that count; None: all since the last update.

    Source: Kurtic et al. 2022, "The Optimal BERT Surgeon"; Theis et al. 2018.

    >>> import torch
    >>> Fisher(damp=0.0)(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]), "weight")
    tensor([4.0000, 2.2500])
    """

    damp: float = 1e-7
    gradients: int | None = None

    def __post_init__(self) -> None:
        if not self.damp >= 0.0:
            raise ConfigurationError(f"damp {self.damp} is negative: use 0 or more")
        if self.gradients is not None and self.gradients < 1:
            raise ConfigurationError(f"gradients {self.gradients} is below 1: use 1 or more")

    @property
    def last(self) -> int | None:
        return self.gradients

    def observe(self, weight: Tensor, grad: Tensor) -> Tensor:  # noqa: ARG002
        return grad.float().square()

    def score(self, weight: Tensor, mean: Tensor) -> Tensor:
        return weight.float().square() * (self.damp + mean)


@dataclasses.dataclass(frozen=True)
class Movement(Averaged):
    """Weights that move away from zero are kept: ``score = -mean(w * dL/dw)`` over all steps.

    The average is never reset, and a masked weight keeps its sum. Meant for fine-tuning.

    Source: Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning".

    >>> import torch
    >>> Movement()(torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 0.5]), "weight")
    tensor([ 2.0000, -1.5000])
    """

    starts_anew: ClassVar[bool] = False

    def observe(self, weight: Tensor, grad: Tensor) -> Tensor:
        return -weight.float() * grad.float()


@dataclasses.dataclass(frozen=True)
class Wanda(Averaged):
    """Magnitude times the norm of the input: ``score = |w_ij| * ||x_j||``.

    The norm of input j is taken over all examples since the last update. Inputs are measured in
    forward passes of Linear and Conv layers while masks still change; a convolution's taps share
    the norm of their input channel. The paper ranks within each output: use it with ``PerRow()``.

    Raises:
        MaskError: at an update, if no inputs of a tensor were measured.

    Source: Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models".
    """

    needs: ClassVar[str] = "inputs"

    def observe(self, weight: Tensor, grad: Tensor) -> Tensor:  # noqa: ARG002
        raise MaskError(f"{self} looks at inputs, not at gradients")

    def observe_inputs(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The mean square of each input of a layer: fp32, one number per column of its weight."""
        squares = inputs.detach().float().square()
        if isinstance(module, nn.Linear):
            return squares.flatten(0, -2).mean(0)
        assert isinstance(module, torch_private.ConvNd)
        spatial = len(module.kernel_size)
        channels = squares.transpose(0, -spatial - 1).flatten(1).mean(1)
        if module.groups == 1:
            return channels
        return channels.view(module.groups, -1)

    def score(self, weight: Tensor, mean: Tensor) -> Tensor:
        norms = mean.sqrt()
        if norms.dim() == 2:  # a norm per group and channel: rows of a group share theirs
            norms = norms.repeat_interleave(weight.shape[0] // norms.shape[0], dim=0)
        norms = norms.view(*norms.shape, *[1] * (weight.dim() - 2))
        return weight.float().abs() * norms

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:  # noqa: ARG002
        raise MaskError(
            f"{self} has seen no inputs of {name!r}: the first mask update has to come after "
            "forward passes of its layer, which must be a Linear or a Conv (begin_step=1 or later)"
        )
