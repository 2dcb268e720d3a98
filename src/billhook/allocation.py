"""One budget over many layers: how many weights of each tensor survive an update.

An allocation sees shapes and schedules, and returns numbers of survivors. One that ranks the
weights of several tensors together says that it needs their scores.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from billhook.distributed import gathered
from billhook.errors import ConfigurationError
from billhook.granularity import Granularity, nearest_kept
from billhook.ranking import largest_by_tensor
from billhook.schedule import Schedule

__all__ = [
    "LAMP",
    "Allocation",
    "ErdosRenyi",
    "Global",
    "LayerwiseConstant",
    "PrunableTensor",
    "Uniform",
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


@dataclasses.dataclass(frozen=True, repr=False)
class Global:
    """The paper's global scheme: the largest scores anywhere survive, all tensors ranked together.

    As many weights survive as under :class:`Uniform`, exactly where single weights are pruned, to
    the nearest block otherwise. Of equal scores those of the earlier tensor survive. Blocks are
    ranked by their mean score per weight.

    Args:
        groups: one glob or several globs of tensor names per group. Each group is ranked by itself
            and has the budget of its own tensors; tensors in no group follow their own schedules.
            Without groups all tensors are one.
        floor: the share of its weights that every tensor keeps at least, whatever its scores. A
            tensor of small weights can lose nearly all of them without it.

    Raises:
        ConfigurationError: ``floor`` is not in [0, 1); a group matches nothing, or two groups match
            one tensor.

    >>> from billhook import OneShot, Unstructured
    >>> scores = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    >>> tensors = {
    ...     name: PrunableTensor(each.shape, OneShot(0.5), Unstructured())
    ...     for name, each in scores.items()
    ... }
    >>> Global()(0, tensors, scores)
    {'a': 2, 'b': 1}
    >>> Global(floor=0.5)(0, tensors, scores)
    {'a': 1, 'b': 2}
    """

    groups: tuple[str | tuple[str, ...], ...] = ()
    floor: float = 0.0

    needs_scores: ClassVar[bool] = True

    def __repr__(self) -> str:
        """Without defaults, as checkpoints from before there were options have it."""
        options = {"groups": self.groups or None, "floor": self.floor or None}
        return f"Global({', '.join(f'{k}={v!r}' for k, v in options.items() if v is not None)})"

    def __post_init__(self) -> None:
        _check_floor(self.floor)
        if isinstance(self.groups, str):
            raise ConfigurationError(
                f"groups {self.groups!r} is one string: give a tuple of groups, for example "
                f"groups=({self.groups!r},)"
            )
        groups = tuple(g if isinstance(g, str) else tuple(g) for g in self.groups)
        object.__setattr__(self, "groups", groups)

    def __call__(
        self, step: int, tensors: Mapping[str, PrunableTensor], scores: Mapping[str, Tensor]
    ) -> dict[str, int]:
        counts = {name: tensor.kept(step) for name, tensor in tensors.items()}
        for members in self._members(list(tensors)):
            group = {name: tensors[name] for name in members}
            leveled = {name: group[name].granularity.level(scores[name]) for name in members}
            budget = sum(counts[name] for name in members)
            counts |= _ranked_together(group, leveled, budget, self.floor)
        return counts

    def _members(self, names: list[str]) -> list[list[str]]:
        if not self.groups:
            return [names]
        seen: dict[str, object] = {}
        found = []
        for group in self.groups:
            patterns = (group,) if isinstance(group, str) else group
            members = [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
            if not members:
                raise ConfigurationError(
                    f"group {group!r} of Global matches none of the pruned tensors "
                    f"{', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
                )
            for name in members:
                if name in seen:
                    raise ConfigurationError(
                        f"groups {seen[name]!r} and {group!r} of Global both match {name!r}: a "
                        "tensor has one ranking"
                    )
                seen[name] = group
            found.append(members)
        return found


@dataclasses.dataclass(frozen=True)
class LAMP:
    """Layer-adaptive magnitude pruning: one ranking of scores made comparable between tensors.

    The squared score of a weight over the sum of those of its tensor that are not smaller::

        lamp(u) = score(u) ** 2 / sum(score(v) ** 2 for v with score(v) >= score(u), ties by index)

    The total is that of :class:`Uniform`. The largest weight of every tensor has the value 1, so no
    tensor is emptied before all others are down to one weight.

    Args:
        floor: the share of its weights that every tensor keeps at least.

    Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning".

    >>> from billhook import OneShot, Unstructured
    >>> scores = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([0.1, 0.2, 0.1, 0.1])}
    >>> tensors = {
    ...     name: PrunableTensor(each.shape, OneShot(0.5), Unstructured())
    ...     for name, each in scores.items()
    ... }
    >>> LAMP()(0, tensors, scores)
    {'a': 2, 'b': 1}
    """

    floor: float = 0.0

    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_floor(self.floor)

    def __call__(
        self, step: int, tensors: Mapping[str, PrunableTensor], scores: Mapping[str, Tensor]
    ) -> dict[str, int]:
        budget = sum(tensor.kept(step) for tensor in tensors.values())
        adapted = {
            name: _lamp(tensor.granularity.level(scores[name])) for name, tensor in tensors.items()
        }
        return _ranked_together(tensors, adapted, budget, self.floor)


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
        _check_floor(self.floor)

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


def _ranked_together(
    tensors: Mapping[str, PrunableTensor],
    scores: Mapping[str, Tensor],
    budget: int,
    floor: float,
) -> dict[str, int]:
    """How many of the ``budget`` largest scores lie in each tensor, at least its floor."""
    names = list(tensors)

    def rank(open_names: Sequence[str], left: int) -> dict[str, int]:
        found = largest_by_tensor([scores[name] for name in open_names], left)
        return dict(zip(open_names, found, strict=True))

    return _above_floor(tensors, names, budget, floor, rank)


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

    return _above_floor(tensors, list(tensors), budget, floor, share_out)


def _above_floor(
    tensors: Mapping[str, PrunableTensor],
    names: list[str],
    budget: int,
    floor: float,
    divide: Callable[[Sequence[str], int], dict[str, int]],
) -> dict[str, int]:
    """``divide`` the budget among the tensors; those that get less than their floor get that.

    Where the granularity cannot keep a number it keeps the nearest one that is not below the floor.
    """
    least = {name: round(floor * tensors[name].numel) for name in names}
    if sum(least.values()) > budget:
        raise ConfigurationError(
            f"a floor of {floor:g} keeps {sum(least.values())} weights, the schedule's sparsity "
            f"only {budget}: lower the floor"
        )
    set_ones: dict[str, int] = {}
    while True:
        counts = divide(names, budget)
        low = [name for name in names if counts[name] < least[name]]
        if not low:
            counts |= set_ones
            return {n: tensor.nearest(counts[n], least[n]) for n, tensor in tensors.items()}
        for name in low:
            set_ones[name] = least[name]
            budget -= least[name]
            names.remove(name)


def _rounded(exact: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """Whole numbers of the sum ``total`` nearest to ``exact``: the largest remainders go up."""
    counts = {name: math.floor(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: earlier first
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _lamp(scores: Tensor) -> Tensor:
    """The scores of :class:`LAMP`, fp32."""
    flat = gathered(scores).flatten()
    order = flat.sort(descending=True, stable=True).indices
    squares = flat[order].to(torch.float64).square()
    finite = squares.isfinite()
    sums = squares.masked_fill(~finite, 0.0).cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    values = torch.where(finite, squares / sums, squares).to(torch.float32)
    values = torch.where(flat[order] == -torch.inf, -torch.inf, values)
    return torch.empty_like(flat).scatter_(0, order, values).view(scores.shape)


def _check_floor(floor: float) -> None:
    if not 0.0 <= floor < 1.0:
        raise ConfigurationError(
            f"floor {floor} is outside [0, 1): it is the share of its weights that every tensor "
            "keeps at least, for example 0.01"
        )
