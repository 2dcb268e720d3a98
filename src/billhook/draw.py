"""One mask update: scores, numbers of survivors, and from both the masks."""

import itertools
import re
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from billhook.allocation import Allocation, PrunableTensor
from billhook.backends import portable
from billhook.backends.nans import nan_scores
from billhook.criterion import Criterion, Magnitude, check_scores
from billhook.distributed import gathered, is_sharded, part, part_like, total
from billhook.errors import ConfigurationError, MaskError
from billhook.granularity import Granularity, Unstructured, nearest_kept
from billhook.mask import Mask
from billhook.masked_weight import Drawn, MaskedWeight
from billhook.masked_weights import MaskedWeights
from billhook.regrowth import GradientRegrowth
from billhook.schedule import Schedule
from billhook.sharded import select_together
from billhook.statistics import Statistics

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["MaskDrawer", "configuration_of"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class MaskDrawer:
    """Draws the masks of an update from the raw weights; changes nothing.

    Args:
        criterion: what a weight is worth.
        granularity: what is pruned together.
        allocation: how many weights of each tensor survive.
        regrow: whether a masked weight can return, or the rule by which it does.
        statistics: the averages of the criterion.

    Raises:
        ConfigurationError: a part has no configuration that a checkpoint could compare.
    """

    def __init__(
        self,
        criterion: Criterion,
        granularity: Granularity,
        allocation: Allocation,
        regrow: bool | GradientRegrowth,
        statistics: Statistics,
    ) -> None:
        self.criterion = criterion
        self.granularity = granularity
        self.allocation = allocation
        if not isinstance(regrow, (bool, GradientRegrowth)):
            raise ConfigurationError(
                f"regrow is {regrow!r}: give True, False or a GradientRegrowth"
            )
        self.regrow = regrow
        self._statistics = statistics
        #: What a checkpoint's masks were drawn with; the schedule excepted.
        self.configuration: dict[str, str | bool] = {
            "criterion": configuration_of(criterion, "criterion"),
            "granularity": configuration_of(granularity, "granularity"),
            "allocation": configuration_of(allocation, "allocation"),
            "regrow": regrow if isinstance(regrow, bool) else repr(regrow),
        }
        plain = (criterion, granularity) == (Magnitude(), Unstructured())
        self._ranks_magnitudes = plain and isinstance(regrow, bool)
        self._emptied: set[str] = set()

    def check(self, shapes: Mapping[str, torch.Size], schedules: Mapping[str, Schedule]) -> None:
        """Check that every update can be drawn, without reading the weights.

        Raises:
            ConfigurationError: a tensor's shape or schedule does not fit the others.
        """
        scored = {
            name: PrunableTensor(shapes[name], schedule, self.granularity)
            for name, schedule in schedules.items()
            if not schedule.holds_zeros
        }
        for name, tensor in scored.items():
            _check_reachable(name, tensor)
            if tensor.schedule.falls and self.regrow is not True:
                raise ConfigurationError(
                    f"{tensor.schedule} falls, so masked weights return, but regrow={self.regrow} "
                    "does not let them return so: leave regrow out"
                )
            first = tensor.schedule.begin_step, tensor.schedule(0)
            if first[0] == 0 and first[1] > 0 and needs(self.criterion) != "weight":
                raise ConfigurationError(
                    f"{self.criterion} needs {needs(self.criterion)}, and begin_step=0 prunes to "
                    f"{first[1]:g} before there is any: use begin_step=1 or later"
                )
        if not self.allocation.needs_scores:
            ends = {(t.schedule.begin_step, t.schedule.end_step) for t in scored.values()}
            for step in sorted(set(itertools.chain(*ends))):
                self._counts(step, {n: t for n, t in scored.items() if step in t.schedule.updates})

    def draw(self, weights: MaskedWeights, step: int) -> dict[str, Drawn]:
        """The masks of the weights whose schedule has an update at ``step``.

        Raises:
            MaskError: scores are not what a criterion owes, or NaN; or a mask has another number
                of survivors than was asked for.
        """
        changing = [weight for weight in weights if step in weight.schedule.updates]
        masks = _existing([weight for weight in changing if weight.schedule.holds_zeros])
        scored = [weight for weight in changing if not weight.schedule.holds_zeros]
        scores: dict[str, Tensor] = {}
        if self.allocation.needs_scores:
            scores = {weight.name: self._score(weight) for weight in scored}
        tensors = {
            w.name: PrunableTensor(w.weight.pattern_shape, w.schedule, self.granularity)
            for w in scored
        }
        counts = self._counts(step, tensors, scores)
        ranked: dict[str, int] = {}  # by magnitude, together
        split: dict[str, DTensor] = {}  # over ranks, together
        nans: dict[str, Tensor] = {}  # counts on devices
        for weight in scored:
            if self.regrow is False:  # what an allocation rounds up must not bring weights back
                counts[weight.name] = min(counts[weight.name], weight.kept)
            count = counts[weight.name]
            if self._ranks_magnitudes and not scores and not is_sharded(weight.parameter):
                ranked[weight.name] = count
                continue
            try:
                if count == weight.parameter.numel() and needs(self.criterion) != "weight":
                    mask = torch.ones_like(weight.parameter, dtype=torch.bool)
                else:
                    score = scores.pop(weight.name) if scores else self._score(weight)
                    if self._is_split(score):
                        split[weight.name] = score
                        continue
                    if self._is_ranked_there(score):
                        mask, nans[weight.name] = _ranked_there(weight, score, count)
                    else:
                        mask = self._drop_and_grow(weight, score, count, step)
                        mask = mask.reshape(weight.parameter.shape)
            except MaskError as error:
                raise MaskError(f"no mask for {weight.name!r} at step {step}: {error}") from None
            # A bit for each weight, before the next mask is drawn.
            packed = mask if is_sharded(weight.parameter) else Mask(mask, count)
            masks[weight.name] = Drawn(packed, count)
        masks |= weights.rank(ranked, step)
        masks |= _select_split(split, counts, step)
        weights.expect_no_nans(nans, step)
        return masks

    def due(self, weights: Sequence[MaskedWeight], step: int) -> dict[str, int]:
        """The survivors of each weight after the updates up to ``step``.

        Those are left out whose number is known only once scores are, or zeros in the weight.
        """
        if self.allocation.needs_scores or self.regrow is False:
            return {}
        tensors = {
            w.name: PrunableTensor(w.parameter.shape, w.schedule, self.granularity)
            for w in weights
            if not w.schedule.holds_zeros
        }
        counts = {name: tensor.numel for name, tensor in tensors.items()}
        done = {n: bisect_right(t.schedule.updates, step) for n, t in tensors.items()}
        last = {n: t.schedule.updates[done[n] - 1] for n, t in tensors.items() if done[n]}
        for each in set(last.values()):
            changing = {n: t for n, t in tensors.items() if each in t.schedule.updates}
            found = self._counts(each, changing)
            counts |= {name: count for name, count in found.items() if last[name] == each}
        return counts

    def due_together(
        self, weights: Sequence[MaskedWeight], step: int
    ) -> list[tuple[list[str], int]]:
        """The survivors, in sum, of tensors that are ranked together, after the updates up to
        ``step``: known where single weights are pruned and all of them are updated at once."""
        members = getattr(self.allocation, "members", None)
        single = isinstance(self.granularity, Unstructured)
        held = any(w.schedule.holds_zeros for w in weights)  # with the survivors they came with
        if members is None or self.regrow is False or not single or held:
            return []
        tensors = {
            w.name: PrunableTensor(w.parameter.shape, w.schedule, self.granularity) for w in weights
        }
        found = []
        for names in members(list(tensors)):
            group = [tensors[name] for name in names]
            updates = group[0].schedule.updates
            if any(each.schedule.updates != updates for each in group):
                continue
            done = bisect_right(updates, step)
            kept = [t.kept(updates[done - 1]) if done else t.numel for t in group]
            found.append((names, sum(kept)))
        return found

    def _counts(
        self,
        step: int,
        tensors: Mapping[str, PrunableTensor],
        scores: Mapping[str, Tensor] | None = None,
    ) -> dict[str, int]:
        """The number of survivors of every tensor."""
        if not tensors:
            return {}
        counts = self.allocation(step, tensors, scores or {})
        for name, tensor in tensors.items():
            count = counts.get(name)
            if not isinstance(count, int) or not 0 <= count <= tensor.numel:
                raise MaskError(
                    f"the allocation returned {count!r} survivors for {name!r}, which has "
                    f"{tensor.numel} weights: return a whole number from 0 to that for each tensor"
                )
            if scores and count == 0 and tensor.numel and name not in self._emptied:
                self._emptied.add(name)
                warnings.warn(
                    f"none of the {tensor.numel} weights of {name!r} survive the update of step "
                    f"{step}: {self.allocation} spends the whole budget on other tensors; give it "
                    "a floor, for example floor=0.01, or give the tensor its own rule",
                    stacklevel=2,
                )
        return counts

    def _score(self, weight: MaskedWeight) -> Tensor:
        scores = self._statistics.score(weight)
        if scores is None:
            grad = weight.parameter.grad
            if grad is None and needs(self.criterion) == "gradient":
                raise MaskError(
                    f"{self.criterion} needs a gradient of {weight.name!r}, which has none: it "
                    "took no part in the last backward pass, or was set to None before the "
                    "optimizer's step"
                )
            scores = self.criterion(weight.raw(), grad, weight.name)
        scores = part_like(check_scores(scores, weight.parameter, weight.name), weight.parameter)
        if self.regrow is not True:
            scores = scores.masked_fill(~weight.alive(), -torch.inf)
        if isinstance(self.granularity, Unstructured):
            return scores
        # Blocks may cross the borders of shards.
        return gathered(scores).reshape(weight.weight.pattern_shape)

    def _is_split(self, scores: Tensor) -> TypeGuard["DTensor"]:
        """Whether single weights are ranked that lie on several ranks."""
        plain = isinstance(self.granularity, Unstructured) and isinstance(self.regrow, bool)
        return plain and is_sharded(scores)

    def _is_ranked_there(self, scores: Tensor) -> bool:
        """Whether single weights are ranked on a device for which nobody has to wait."""
        plain = isinstance(self.granularity, Unstructured) and isinstance(self.regrow, bool)
        return plain and not scores.is_cpu and not is_sharded(scores)

    def _drop_and_grow(self, weight: MaskedWeight, scores: Tensor, count: int, step: int) -> Tensor:
        """The mask of ``count`` survivors, some of them regrown where a rule says so."""
        grad = weight.gradient.dense() if isinstance(self.regrow, GradientRegrowth) else None
        if grad is None or weight.kept == weight.parameter.numel():
            return self._mask(scores, count)
        assert isinstance(self.regrow, GradientRegrowth)
        share = self.regrow.share(weight.schedule, step)
        stays = min(count, weight.kept) - round(share * count)
        stays = nearest_kept(self.granularity, scores.shape, max(0, stays))
        if stays > weight.kept:
            return self._mask(scores, count)
        mask = self._mask(scores, stays)
        growth = grad.to(torch.float32).abs()
        if not isinstance(self.granularity, Unstructured):
            growth = gathered(growth).reshape(scores.shape)
        return self._mask(growth.masked_fill(mask, torch.inf), count)

    def _mask(self, scores: Tensor, count: int) -> Tensor:
        if isinstance(self.granularity, Unstructured):
            return self.granularity.mask(scores, count)
        mask = self.granularity.mask(scores, count)
        if (mask.shape, mask.dtype, int(mask.count_nonzero())) != (scores.shape, torch.bool, count):
            raise MaskError(
                f"{self.granularity} gave {int(mask.count_nonzero())} survivors in a mask of shape "
                f"{tuple(mask.shape)} and {mask.dtype}, not {count} in {tuple(scores.shape)} and "
                "torch.bool: kept() and mask() of a granularity must agree"
            )
        return mask


def _select_split(
    scores: Mapping[str, "DTensor"], counts: Mapping[str, int], step: int
) -> dict[str, Drawn]:
    """The masks of the largest scores of tensors that lie on several ranks."""
    if not scores:
        return {}
    nans, masks = select_together(list(scores.values()), [counts[name] for name in scores])
    for (name, each), bad in zip(scores.items(), nans, strict=True):
        if bad:
            problem = nan_scores(bad, each.numel())
            raise MaskError(f"no mask for {name!r} at step {step}: {problem}")
    return {n: Drawn(mask, counts[n]) for n, mask in zip(scores, masks, strict=True)}


def _ranked_there(weight: MaskedWeight, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mask of the largest scores, or with a NaN among them that in force; the NaNs' number."""
    nans, alive = portable.select(scores, count)
    return torch.where(nans == 0, alive, weight.alive()), nans


def _existing(weights: Sequence[MaskedWeight]) -> dict[str, Drawn]:
    """The masks of the nonzero weights; a warning names tensors without a single zero."""
    alive = {weight.name: weight.raw() != 0 for weight in weights}
    masks = {
        w.name: Drawn(alive[w.name], total(int(part(alive[w.name]).count_nonzero()), w.parameter))
        for w in weights
    }
    dense = [w.name for w in weights if masks[w.name].kept == w.parameter.numel()]
    if dense:
        shown = ", ".join(map(repr, dense[:5])) + (", ..." if len(dense) > 5 else "")
        warnings.warn(
            f"Hold() finds no zero in {len(dense)} of {len(weights)} tensors, which stay dense: "
            f"{shown}. Load the sparse weights before the Pruner is made, or leave these tensors "
            "out with rules {name: None}",
            stacklevel=5,
        )
    return masks


def needs(criterion: object) -> str:
    """What a criterion looks at besides the weight: "weight" (nothing), "gradient" or "inputs"."""
    return str(getattr(criterion, "needs", "weight"))


def configuration_of(part: object, role: str) -> str:
    """The ``repr`` of a part of a pruner; a checkpoint compares it.

    An object without state and without a ``__repr__`` is identified by its class.

    Raises:
        ConfigurationError: it holds the object's address, which is another one in the next process.

    >>> configuration_of(lambda weight, grad, name: weight.abs(), "criterion")
    Traceback (most recent call last):
    ...
    billhook.errors.ConfigurationError: the criterion <function <lambda>> has no configuration ...
    """
    text = repr(part)
    if not _ADDRESS.search(text):
        return text
    function = isinstance(part, (FunctionType, BuiltinFunctionType, MethodType))
    if not function and type(part).__repr__ is object.__repr__ and not getattr(part, "__dict__", 1):
        return f"{type(part).__module__}.{type(part).__qualname__}"
    raise ConfigurationError(
        f"the {role} {_ADDRESS.sub('', text)} has no configuration that a checkpoint could "
        "compare: its repr is an address, which changes from process to process. Make it a frozen "
        "dataclass (@dataclasses.dataclass(frozen=True)) with a __call__ method, or give it a "
        "__repr__ that names its settings"
    )


def _check_reachable(name: str, tensor: PrunableTensor) -> None:
    schedule = tensor.schedule
    for sparsity in (0.0, schedule.initial_sparsity, schedule.final_sparsity):
        try:
            tensor.granularity.kept(tensor.shape, sparsity)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name!r}: {error}") from None
    if tensor.numel and not tensor.granularity.kept(tensor.shape, schedule.final_sparsity):
        warnings.warn(
            f"sparsity {schedule.final_sparsity:g} leaves none of the {tensor.numel} weights of "
            f"{name!r}: set another one in rules",
            stacklevel=4,
        )
