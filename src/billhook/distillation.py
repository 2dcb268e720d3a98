"""The loss of a student that also learns from a teacher, usually the dense network."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from billhook.errors import ConfigurationError

__all__ = ["Teacher", "distillation_loss"]


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    hardness: float = 1.0,
    temperature: float = 2.0,
) -> Tensor:
    """Cross entropy mixed with the divergence from the teacher's softened probabilities.

    ``(1 - h) * CE(student, labels) + h * T**2 * KL(softmax(teacher / T) || softmax(student / T))``,
    averaged over all positions that count: those whose label is not -100, or all without labels.

    Args:
        student_logits: (..., classes), the pruned network's.
        teacher_logits: the same shape; no gradient flows into them.
        labels: (...), class indices; -100 is left out, as in torch's cross entropy. They may be
            None where ``hardness`` is 1.
        hardness: h, the teacher's share of the loss, in [0, 1].
        temperature: T, above 0; higher ones show more of what the teacher finds similar.

    Raises:
        ConfigurationError: shapes differ, labels are missing, or a number is out of bounds.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".

    >>> student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> distillation_loss(student, student).item()
    0.0
    >>> loss = distillation_loss(student, torch.zeros(1, 2), torch.tensor([0]), hardness=0.0)
    >>> bool(loss == torch.nn.functional.cross_entropy(student, torch.tensor([0])))
    True
    """
    _check(student_logits, teacher_logits, labels, hardness, temperature)
    classes = student_logits.shape[-1]
    student = student_logits.reshape(-1, classes)
    teacher = teacher_logits.detach().reshape(-1, classes)
    flat = None if labels is None else labels.reshape(-1)
    counted = torch.ones(len(student), dtype=torch.bool, device=student.device)
    if flat is not None:
        counted = flat != -100
    divergence = functional.kl_div(
        functional.log_softmax(student.float() / temperature, -1),
        functional.log_softmax(teacher.float() / temperature, -1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    soft = temperature**2 * divergence.masked_fill(~counted, 0.0).sum() / counted.sum()
    if flat is None or hardness == 1.0:
        return soft
    hard = functional.cross_entropy(student.float(), flat)
    return hard if hardness == 0.0 else (1.0 - hardness) * hard + hardness * soft


class Teacher:
    """A network that a student learns from, and how much it learns from it.

    Calling it gives the network's outputs, without gradients. It is not a module: as an attribute
    of one (a LightningModule, say) it is neither trained nor pruned nor saved with it. The network
    is put in evaluation mode, its parameters take no gradients, and it moves to the device of the
    first tensor that it is called with.

    Args:
        network: the teacher; its outputs have the shape of the student's.
        hardness: the teacher's share of the loss, in [0, 1].
        temperature: as of :func:`distillation_loss`.

    Raises:
        ConfigurationError: a number is out of bounds.

    >>> from torch.nn.functional import cross_entropy
    >>> student, teacher = nn.Linear(4, 3), Teacher(nn.Linear(4, 3), hardness=0.9)
    >>> x, labels = torch.randn(8, 4), torch.randint(3, (8,))
    >>> logits = student(x)
    >>> loss = teacher.mix(cross_entropy(logits, labels), logits, teacher(x))
    >>> loss.backward()
    """

    def __init__(self, network: nn.Module, hardness: float = 0.5, temperature: float = 2.0) -> None:
        _check_numbers(hardness, temperature)
        self.network = network.eval().requires_grad_(False)
        self.hardness = hardness
        self.temperature = temperature

    @torch.no_grad()
    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The network's outputs for the student's inputs."""
        seen = [each for each in (*inputs, *named.values()) if isinstance(each, Tensor)]
        if seen:
            self.network.to(seen[0].device)
        return self.network(*inputs, **named)

    def mix(
        self,
        loss: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """``(1 - h) * loss + h * scale * T**2 * KL``, the divergence being a mean over positions.

        Args:
            loss: the student's own, from the labels.
            student_logits: (..., classes).
            teacher_logits: the same shape.
            labels: (...), of which -100 marks positions that do not count; None: all count.
            scale: the number of positions that ``loss`` is a sum over, where it is not a mean.

        Raises:
            ConfigurationError: shapes differ.
        """
        soft = distillation_loss(
            student_logits, teacher_logits, labels, 1.0, temperature=self.temperature
        )
        return (1.0 - self.hardness) * loss + self.hardness * scale * soft


def _check(
    student: Tensor, teacher: Tensor, labels: Tensor | None, hardness: float, temperature: float
) -> None:
    if student.shape != teacher.shape or student.dim() < 1:
        raise ConfigurationError(
            f"student_logits have shape {tuple(student.shape)}, teacher_logits "
            f"{tuple(teacher.shape)}: both networks must see the same batch and classes"
        )
    if labels is not None and labels.shape != student.shape[:-1]:
        raise ConfigurationError(
            f"labels have shape {tuple(labels.shape)}, the logits {tuple(student.shape)}: give one "
            "class index per position"
        )
    _check_numbers(hardness, temperature)
    if labels is None and hardness < 1.0:
        raise ConfigurationError(
            f"hardness {hardness} mixes in the labels, and there are none: give labels, or "
            "hardness=1.0"
        )


def _check_numbers(hardness: float, temperature: float) -> None:
    if not 0.0 <= hardness <= 1.0:
        raise ConfigurationError(
            f"hardness {hardness} is outside [0, 1]: it is a share of the loss"
        )
    if not temperature > 0.0:
        raise ConfigurationError(f"temperature {temperature} is not above 0: use 1 to 10")
