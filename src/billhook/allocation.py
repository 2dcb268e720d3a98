"""One budget over many layers: how a schedule becomes a sparsity for each tensor."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from billhook.errors import ConfigurationError
from billhook.mask import select, survivors
from billhook.schedule import Schedule

__all__ = ["Allocation", "Global", "LayerwiseConstant", "Uniform"]


class Allocation(Protocol):
    """Any callable of this signature; its ``repr`` is its configuration in checkpoints."""

    def __call__(
        self, step: int, schedules: Mapping[str, Schedule], scores: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """The sparsity of every tensor at the update of ``step``.

        Args:
            step: the update's step.
            schedules: each tensor's schedule; they differ where a rule sets another sparsity.
            scores: each tensor's fp32 scores, computed only when asked for.
        """


@dataclasses.dataclass(frozen=True)
class Uniform:
    """The paper's standard scheme: every tensor follows its own schedule.

    >>> from billhook import OneShot
    >>> Uniform()(5, {"a": OneShot(0.9, 5), "b": OneShot(0.5, 5)}, {})
    {'a': 0.9, 'b': 0.5}
    """

    def __call__(
        self,
        step: int,
        schedules: Mapping[str, Schedule],
        scores: Mapping[str, Tensor],  # noqa: ARG002 - the same for every tensor
    ) -> dict[str, float]:
        return {name: schedule(step) for name, schedule in schedules.items()}


@dataclasses.dataclass(frozen=True)
class Global:
    """The paper's global scheme: the smallest scores anywhere, all tensors ranked together.

    As many weights survive as under :class:`Uniform`; of equal scores those of the earlier tensor
    survive. A tensor of small weights can lose nearly all of them: ``billhook.plan`` warns of it.

    >>> import torch
    >>> from billhook import OneShot
    >>> scores = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    >>> Global()(0, {name: OneShot(0.5) for name in scores}, scores)
    {'a': 0.0, 'b': 0.75}
    """

    def __call__(
        self, step: int, schedules: Mapping[str, Schedule], scores: Mapping[str, Tensor]
    ) -> dict[str, float]:
        flat = {name: scores[name].flatten() for name in schedules}
        budget = sum(
            survivors(flat[n].numel(), schedule(step)) for n, schedule in schedules.items()
        )
        keep = select(torch.cat(list(flat.values())), budget)
        parts = keep.split([each.numel() for each in flat.values()])
        return {
            name: 1.0 - int(part.sum()) / part.numel() if part.numel() else 0.0
            for name, part in zip(flat, parts, strict=True)
        }


@dataclasses.dataclass(frozen=True)
class LayerwiseConstant:
    """The paper's layerwise constant scheme: the window is split, one tensor is pruned at a time.

    With L tensors, the i-th (from 0, in the model's order) runs through its whole curve between
    the progress i / L and (i + 1) / L of the window. It was the best on average for translation.

    Raises:
        ConfigurationError: the window has fewer updates than there are tensors.

    >>> from billhook import Polynomial
    >>> line = Polynomial(0.8, 0, 4, frequency=1, exponent=1.0)
    >>> [LayerwiseConstant()(t, {"a": line, "b": line}, {}) for t in (1, 2, 3)]
    [{'a': 0.4, 'b': 0.0}, {'a': 0.8, 'b': 0.0}, {'a': 0.8, 'b': 0.4}]
    """

    def __call__(
        self,
        step: int,
        schedules: Mapping[str, Schedule],
        scores: Mapping[str, Tensor],  # noqa: ARG002 - the same whatever they are
    ) -> dict[str, float]:
        count = len(schedules)
        sparsities = {}
        for index, (name, schedule) in enumerate(schedules.items()):
            if len(schedule.updates) <= count:
                raise ConfigurationError(
                    f"layerwise constant pruning of {count} tensors needs more than {count} mask "
                    f"updates, the schedule has {len(schedule.updates)}: lower the frequency"
                )
            window = schedule.end_step - schedule.begin_step
            turn = (step - schedule.begin_step) * count / window - index
            sparsities[name] = schedule.at(min(turn, 1.0)) if turn > 0 else 0.0
        return sparsities
