"""One budget over many layers: how many weights of each tensor survive an update.

An allocation sees shapes and schedules, and returns numbers of survivors. Those that rank the
weights of several tensors together (``global_ranking.py``) say that they need their scores.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from billhook.errors import ConfigurationError
from billhook.granularity import Granularity, nearest_kept
from billhook.schedule import Schedule

__all__ = [
    "Allocation",
    "ErdosRenyi",
    "LayerwiseConstant",
    "PrunableTensor",
    "Uniform",
    "above_floor",
    "check_floor",
]


@dataclasses.dataclass(frozen=True)
class PrunableTensor:
    """What an allocation knows of a tensor without looking at its weights."""

    shape: torch.Size
    schedule: Schedule
    granularity: Granularity

    @property
    def numel(self) -> int:
        """The number of weights."""
        return self.shape.numel()

    def kept(self, step: int) -> int:
        """The survivors that the tensor's own schedule asks for at ``step``."""
        return self.granularity.kept(self.shape, self.schedule(step))

    def nearest(self, count: int, least: int = 0) -> int:
        """The number nearest to ``count`` that the granularity can keep, ``least`` or more."""
        return nearest_kept(self.granularity, self.shape, count, least)


class Allocation(Protocol):
    """Any callable of this signature; its ``repr`` is its configuration in checkpoints."""

    #: Whether ``scores`` are looked at. If not, they are computed one tensor at a time, and the
    #: allocation is tried out when the pruner attaches.
    needs_scores: ClassVar[bool]

    def __call__(
        self, step: int, tensors: Mapping[str, PrunableTensor], scores: Mapping[str, Tensor]
    ) -> dict[str, int]:
        """The number of weights of every tensor that survive the update of ``step``.

        Args:
            step: the update's step.
            tensors: those whose masks change at this step, in the model's order.
            scores: their fp32 scores if ``needs_scores``, else nothing.
        """


@dataclasses.dataclass(frozen=True)
class Uniform:
    """The paper's standard scheme: every tensor follows its own schedule.

    >>> from billhook import OneShot, Unstructured
    >>> tensor = PrunableTensor(torch.Size([5, 2]), OneShot(0.9, 5), Unstructured())
    >>> Uniform()(5, {"a": tensor}, {})
    {'a': 1}
    """

    needs_scores: ClassVar[bool] = False

    def __call__(
        self,
        step: int,
        tensors: Mapping[str, PrunableTensor],
        scores: Mapping[str, Tensor],  # noqa: ARG002 - the same whatever they are
    ) -> dict[str, int]:
        return {name: tensor.kept(step) for name, tensor in tensors.items()}


@dataclasses.dataclass(frozen=True)
class ErdosRenyi:
    """Densities in proportion to the size of a layer's sides: small layers stay denser.

    ``density = e * (out + in) / (out * in)``, at most 1, with the e that gives the total of
    :class:`Uniform`. With ``kernel=True`` (ERK) a convolution's kernel counts:
    ``e * (out + in + height + width) / (out * in * height * width)``.

    Args:
        kernel: whether the sides of convolution kernels count.
        floor: the share of its weights that every tensor keeps at least.

    Source: Evci et al. 2020, "Rigging the Lottery" (after Mocanu et al. 2018).

    >>> from billhook import OneShot, Unstructured
    >>> tensors = {
    ...     name: PrunableTensor(torch.Size(shape), OneShot(0.75), Unstructured())
    ...     for name, shape in {"wide": (30, 30), "narrow": (10, 10)}.items()
    ... }
    >>> ErdosRenyi()(0, tensors, {})
    {'wide': 188, 'narrow': 62}
    """

    kernel: bool = False
    floor: float = 0.0

    needs_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def __call__(
        self,
        step: int,
        tensors: Mapping[str, PrunableTensor],
        scores: Mapping[str, Tensor],  # noqa: ARG002 - the same whatever they are
    ) -> dict[str, int]:
        budget = sum(tensor.kept(step) for tensor in tensors.values())
        shares = {name: self._share(tensor.shape) for name, tensor in tensors.items()}
        return _shared_out(tensors, shares, budget, self.floor)

    def _share(self, shape: torch.Size) -> int:
        """A tensor's survivors where e = 1: the sum of its sides, over all taps without kernel."""
        if len(shape) < 2:
            return shape.numel()
        if self.kernel:
            return sum(shape)
        return (shape[0] + shape[1]) * math.prod(shape[2:])


@dataclasses.dataclass(frozen=True)
class LayerwiseConstant:
    """The paper's layerwise constant scheme: the window is split, one tensor is pruned at a time.

    With L tensors, the i-th (from 0, in the model's order) runs through its whole curve between
    the progress i / L and (i + 1) / L of the window. It was the best on average for translation.

    Raises:
        ConfigurationError: the window has fewer updates than there are tensors, or a schedule
            falls.

    >>> from billhook import Polynomial, Unstructured
    >>> line = Polynomial(0.8, 0, 4, frequency=1, exponent=1.0)
    >>> tensor = PrunableTensor(torch.Size([10]), line, Unstructured())
    >>> [LayerwiseConstant()(t, {"a": tensor, "b": tensor}, {}) for t in (1, 2, 3)]
    [{'a': 6, 'b': 10}, {'a': 2, 'b': 10}, {'a': 2, 'b': 6}]
    """

    needs_scores: ClassVar[bool] = False

    def __call__(
        self,
        step: int,
        tensors: Mapping[str, PrunableTensor],
        scores: Mapping[str, Tensor],  # noqa: ARG002 - the same whatever they are
    ) -> dict[str, int]:
        count = len(tensors)
        kept = {}
        for index, (name, tensor) in enumerate(tensors.items()):
            schedule = tensor.schedule
            if schedule.falls:
                raise ConfigurationError(
                    f"layerwise constant pruning gives each tensor its turn on a rising curve, "
                    f"{schedule} falls: use Uniform() or Global()"
                )
            if len(schedule.updates) <= count:
                raise ConfigurationError(
                    f"layerwise constant pruning of {count} tensors needs more than {count} mask "
                    f"updates, the schedule has {len(schedule.updates)}: lower the frequency"
                )
            window = schedule.end_step - schedule.begin_step
            turn = (step - schedule.begin_step) * count / window - index
            sparsity = schedule.at(min(turn, 1.0)) if turn > 0 else 0.0
            kept[name] = tensor.granularity.kept(tensor.shape, sparsity)
        return kept


def _shared_out(
    tensors: Mapping[str, PrunableTensor], shares: Mapping[str, int], budget: int, floor: float
) -> dict[str, int]:
    """``budget`` survivors in proportion to ``shares``; what is full or at its floor is set."""

    def share_out(open_names: Sequence[str], left: int) -> dict[str, int]:
        counts: dict[str, int] = {}
        names = list(open_names)
        while names:
            total = sum(shares[name] for name in names)
            full = [n for n in names if left * shares[n] >= total * tensors[n].numel]
            if not full:
                exact = {name: Fraction(left * shares[name], total) for name in names}
                return counts | _rounded(exact, left)
            for name in full:
                counts[name] = tensors[name].numel
                left -= counts[name]
                names.remove(name)
        return counts

    return above_floor(tensors, budget, floor, share_out)


def above_floor(
    tensors: Mapping[str, PrunableTensor],
    budget: int,
    floor: float,
    divide: Callable[[Sequence[str], int], dict[str, int]],
) -> dict[str, int]:
    """``divide`` the budget among the tensors; those that get less than their floor get that.

    Where the granularity cannot keep a number it keeps the nearest one that is not below the floor.
    """
    least = {name: round(floor * tensor.numel) for name, tensor in tensors.items()}
    if sum(least.values()) > budget:
        raise ConfigurationError(
            f"a floor of {floor:g} keeps {sum(least.values())} weights, the schedule's sparsity "
            f"only {budget}: lower the floor"
        )
    names, raised = list(tensors), dict[str, int]()
    while True:
        counts = divide(names, budget)
        low = [name for name in names if counts[name] < least[name]]
        if not low:
            counts |= raised
            return {n: tensor.nearest(counts[n], least[n]) for n, tensor in tensors.items()}
        for name in low:
            raised[name] = least[name]
            budget -= least[name]
            names.remove(name)


def _rounded(exact: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """Whole numbers of the sum ``total`` nearest to ``exact``: the largest remainders go up."""
    counts = {name: math.floor(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: earlier first
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def check_floor(floor: float) -> None:
    if not 0.0 <= floor < 1.0:
        raise ConfigurationError(
            f"floor {floor} is outside [0, 1): it is the share of its weights that every tensor "
            "keeps at least, for example 0.01"
        )
