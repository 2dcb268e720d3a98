"""One ranking of the weights of several tensors: those that need the scores of all of them."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from billhook.allocation import PrunableTensor, above_floor, check_floor
from billhook.distributed import gathered
from billhook.errors import ConfigurationError
from billhook.ranking import largest_by_tensor

__all__ = ["LAMP", "Global"]


class _OneRanking:
    """Base of both: the largest comparable scores survive, as many as under ``Uniform``."""

    floor: float

    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def __call__(
        self, step: int, tensors: Mapping[str, PrunableTensor], scores: Mapping[str, Tensor]
    ) -> dict[str, int]:
        """The number of weights of every tensor that survive, as :class:`Allocation` says."""
        counts = {name: tensor.kept(step) for name, tensor in tensors.items()}
        for members in self.members(list(tensors)):
            group = {name: tensors[name] for name in members}
            levels = {name: group[name].granularity.level(scores[name]) for name in members}
            comparable = {name: self.comparable(each) for name, each in levels.items()}
            budget = sum(counts[name] for name in members)
            counts |= _ranked_together(group, comparable, budget, self.floor)
        return counts

    def members(self, names: list[str]) -> list[list[str]]:
        """The tensors that are ranked together; others follow their own schedules."""
        return [names]

    def comparable(self, levels: Tensor) -> Tensor:
        """The scores of one tensor, one value per unit that is pruned together, for the ranking."""
        return levels


@dataclasses.dataclass(frozen=True, repr=False)
class Global(_OneRanking):
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

    def __repr__(self) -> str:
        """Without defaults, as checkpoints from before there were options have it."""
        options = {"groups": self.groups or None, "floor": self.floor or None}
        return f"Global({', '.join(f'{k}={v!r}' for k, v in options.items() if v is not None)})"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.groups, str):
            raise ConfigurationError(
                f"groups {self.groups!r} is one string: give a tuple of groups, for example "
                f"groups=({self.groups!r},)"
            )
        groups = tuple(g if isinstance(g, str) else tuple(g) for g in self.groups)
        object.__setattr__(self, "groups", groups)

    def members(self, names: list[str]) -> list[list[str]]:
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
class LAMP(_OneRanking):
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

    def comparable(self, levels: Tensor) -> Tensor:
        return _lamp(levels)


def _ranked_together(
    tensors: Mapping[str, PrunableTensor],
    scores: Mapping[str, Tensor],
    budget: int,
    floor: float,
) -> dict[str, int]:
    """How many of the ``budget`` largest scores lie in each tensor, at least its floor."""

    def rank(open_names: Sequence[str], left: int) -> dict[str, int]:
        found = largest_by_tensor([scores[name] for name in open_names], left)
        return dict(zip(open_names, found, strict=True))

    return above_floor(tensors, budget, floor, rank)


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
