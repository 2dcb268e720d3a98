"""The Pruner: schedule, criterion, granularity and allocation on a model and its optimizer."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from billhook.allocation import Allocation, Uniform
from billhook.arguments import check_arguments
from billhook.attach import attach_weights, check_ranks
from billhook.criterion import Criterion, Magnitude, check_scores
from billhook.distributed import (
    check_replicas,
    is_first_rank,
    is_zero,
    part,
    part_like,
    total,
)
from billhook.errors import MaskError, StateError
from billhook.granularity import Granularity, Unstructured
from billhook.mask import Mask
from billhook.masked_weight import MaskedWeight
from billhook.optimizer_state import check_optimizer
from billhook.pruner_state import STATE_VERSION, pack_weight, read_state
from billhook.report import PruningReport, TensorReport
from billhook.schedule import Schedule
from billhook.selection import Rules, named_weights, select_weights

__all__ = ["Pruner"]

_log = logging.getLogger("billhook")


class Pruner:
    """Prunes a model while it trains; the training loop stays as it was.

    Attaching registers hooks on the optimizer and on the gradients. After each optimizer step that
    lies on the schedule's grid the masks are drawn anew from the raw weights; after every step the
    masked weights, their gradients and their optimizer state are zero.

    Args:
        model: any module. What is pruned is logged when the pruner attaches; see
            :func:`billhook.selection.select_weights` for the default and ``rules``.
        optimizer: the optimizer of the selected weights, or a list of them, of which the first
            counts the steps.
        schedule: sparsity over the steps.
        criterion: what a weight is worth; the smallest scores are pruned.
        granularity: what is pruned together.
        allocation: how the schedule becomes a sparsity for each tensor.
        rules: tensors with a final sparsity of their own, or None to leave them dense.
        regrow: whether a masked weight can return when others shrink below it (the paper's way).

    Raises:
        ConfigurationError: nothing is selected, a rule is ambiguous or matches nothing, or a
            selected trainable parameter is in none of the optimizers.

    >>> import billhook
    >>> model = nn.Linear(8, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> pruner = Pruner(model, optimizer, billhook.Cubic(0.75, 0, 10, frequency=5))
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(2, 8)).square().sum().backward()
    ...     optimizer.step()
    >>> pruner.finalize().nonzero
    8
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        schedule: Schedule,
        *,
        criterion: Criterion = Magnitude(),
        granularity: Granularity = Unstructured(),
        allocation: Allocation = Uniform(),
        rules: Rules | None = None,
        regrow: bool = True,
    ) -> None:
        check_arguments(
            model,
            optimizer,
            rules=rules,
            schedule=schedule,
            criterion=criterion,
            granularity=granularity,
            allocation=allocation,
        )
        optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        for each in optimizers:
            check_optimizer(each)
        self.schedule = schedule
        self.criterion = criterion
        self.granularity = granularity
        self.allocation = allocation
        self.regrow = regrow
        self.selection = select_weights(model, rules, schedule.final_sparsity)
        self.step_count = 0
        self._optimizers = optimizers
        self._loaded: set[Optimizer] = set()
        self._weights = attach_weights(model, self.selection, schedule, optimizers)
        check_ranks(model, self._weights, self._configuration(), allocation)
        self._sparsities(schedule.begin_step)  # what cannot work fails now, not at the first update
        self._handles = list(self._register_hooks())
        self._attached = True
        if is_first_rank():
            _log.info("%s", self.selection)
        if schedule.begin_step == 0:
            self._update_masks()

    def __repr__(self) -> str:
        """Where it stands, and what it was made of."""
        count = sum(weight.parameter.numel() for weight in self._weights)
        parts = [repr(self.schedule)]
        parts += [
            f"{name}={part!r}"
            for name, part, default in (
                ("criterion", self.criterion, Magnitude()),
                ("granularity", self.granularity, Unstructured()),
                ("allocation", self.allocation, Uniform()),
                ("regrow", self.regrow, True),
            )
            if part != default
        ]
        return (
            f"<Pruner of {len(self._weights)} tensors with {count:,} weights, "
            f"{self.sparsity:.2%} sparse after {self.step_count:,} steps"
            f"{'' if self._attached else ', detached'}: {', '.join(parts)}>"
        )

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks in force by canonical name: bool, True = kept, laid out as the weight is."""
        return {weight.name: weight.keep() for weight in self._weights}

    @property
    def sparsity(self) -> float:
        """The share of all selected weights (on this rank) that the masks in force hold at zero."""
        count = sum(weight.parameter.numel() for weight in self._weights)
        return 1.0 - sum(weight.kept for weight in self._weights) / count if count else 0.0

    def report(self) -> PruningReport:
        """Sparsity and NNZ of every pruned tensor as it now stands.

        Counts of sharded tensors are added up over the ranks: call it on all of them.
        """
        return PruningReport(
            self.step_count,
            tuple(
                TensorReport(
                    name=weight.name,
                    shape=tuple(weight.parameter.shape),
                    kept=weight.kept,
                    nonzero=total(int(weight.part.count_nonzero()), weight.parameter),
                    target=weight.schedule.final_sparsity,
                )
                for weight in self._weights
            ),
        )

    def apply_to(self, model: nn.Module) -> None:
        """Write this pruner's zeros into another copy of the model, such as its moving average.

        Raises:
            StateError: ``model`` lacks a pruned tensor or has it in another shape.
        """
        others = {name: weight for weight in named_weights(model) for name in weight.names}
        for weight in self._weights:
            other = others.get(weight.name)
            mine = None if other is None else part(other.parameter)
            if mine is None or mine.shape != weight.mask.shape:
                found = "is missing" if mine is None else f"is {tuple(mine.shape)}"
                raise StateError(
                    f"{weight.name!r} of shape {tuple(weight.mask.shape)} {found} in this "
                    f"{type(model).__name__}: apply_to() takes a copy of the pruned model"
                )
            Mask.from_bits(weight.mask.bits.to(mine.device), weight.mask.shape).zero_(mine)

    def finalize(self, *, keep_masks: bool = False) -> PruningReport:
        """Check that the final sparsity is reached, then detach.

        Args:
            keep_masks: stay attached and go on holding the masks through further training.

        Raises:
            StateError: the run ended before ``end_step``; the message says what was reached.
        """
        if self.step_count < self.schedule.end_step:
            raise StateError(
                f"pruning is not over: {self.step_count} of the {self.schedule.end_step} optimizer "
                f"steps up to end_step were taken and the masks are {self.sparsity:.2%} sparse, "
                f"not {self.schedule.final_sparsity:.2%}; train on, or give a schedule whose "
                "end_step lies within the run"
            )
        for weight in self._weights:
            weight.check()
            weight.hold()
        if not keep_masks:
            self.detach()
        return self.report()

    def detach(self) -> None:
        """Remove all hooks and the values kept aside. The zeros stay in the weights as they are."""
        for handle in self._handles:
            handle.remove()
        for weight in self._weights:
            weight.release()
        self._attached = False

    def state_dict(self) -> dict[str, Any]:
        """Masks (one bit a weight), values kept aside, step and configuration.

        Holds tensors, numbers and strings only: ``torch.load(..., weights_only=True)`` reads it.
        A pruner can also be given to torch.distributed.checkpoint as it is.
        """
        return {
            "version": STATE_VERSION,
            "step": self.step_count,
            "configuration": self._configuration(),
            "weights": {weight.name: pack_weight(weight) for weight in self._weights},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, before or after model and optimizer load.

        Raises:
            StateError: no pruner state, or one of another model, configuration or version; the
                message names what differs, and nothing has been changed.
        """
        self._require_attached()
        last_aside = self.schedule.end_step - 1 if self.regrow else -1
        restored = read_state(state, self._configuration(), self._weights, last_aside=last_aside)
        self.step_count = state["step"]
        for weight, (mask, aside) in zip(self._weights, restored, strict=True):
            weight.restore(mask, aside)
        self._compare_replicas()

    def _register_hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        # Dynamo would compile our Python anew at every mask update: hooks run outside of it.
        eager: Callable[[Any], Any] = torch.compiler.disable
        for index, optimizer in enumerate(self._optimizers):
            after = self._after_counted_step if index == 0 else self._after_step
            yield optimizer.register_step_pre_hook(eager(self._before_step))
            yield optimizer.register_step_post_hook(eager(after))
            yield optimizer.register_load_state_dict_post_hook(self._after_load)

    def _held_after(self, optimizer: Optimizer) -> list[MaskedWeight]:
        """The weights this optimizer may move: all those in no other's groups as they now are."""
        others = {
            id(parameter)
            for other in self._optimizers
            if other is not optimizer
            for group in other.param_groups
            for parameter in group["params"]
        }
        return [weight for weight in self._weights if id(weight.parameter) not in others]

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        for weight in self._held_after(optimizer):
            weight.check()
            if optimizer in self._loaded:
                weight.hold_state()
        self._loaded.discard(optimizer)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        for weight in self._held_after(optimizer):
            weight.hold()

    def _after_counted_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._after_step(optimizer)
        if _counts(optimizer):
            self.step_count += 1
            if self.step_count in self.schedule.updates:
                self._update_masks()

    def _after_load(self, optimizer: Optimizer) -> None:
        # Its masks may be loaded only after it, so its state is held when the next step begins.
        self._loaded.add(optimizer)

    @torch.no_grad()
    def _update_masks(self) -> None:
        """Draw every mask anew from the raw weights, all of them before any is put in force."""
        scores, sparsities = self._scores(), self._sparsities(self.step_count)
        keeps = []
        for weight in self._weights:
            try:
                keeps.append(self.granularity.mask(scores[weight.name], sparsities[weight.name]))
            except MaskError as error:
                raise MaskError(
                    f"no mask for {weight.name!r} at step {self.step_count}: {error}; look for "
                    "the divergence that brought them in (learning rate, loss, data)"
                ) from None
        last = self.step_count == self.schedule.end_step
        for weight, keep in zip(self._weights, keeps, strict=True):
            weight.set_mask(keep, keep_aside=self.regrow and not last)
        self._compare_replicas()

    def _sparsities(self, step: int) -> dict[str, float]:
        schedules = {weight.name: weight.schedule for weight in self._weights}
        return self.allocation(step, schedules, self._scores())

    def _scores(self) -> Mapping[str, Tensor]:
        return _LazyScores({weight.name: weight for weight in self._weights}, self._score)

    def _score(self, weight: MaskedWeight) -> Tensor:
        scores = self.criterion(weight.raw(), weight.parameter.grad, weight.name)
        scores = part_like(check_scores(scores, weight.parameter, weight.name), weight.parameter)
        if not self.regrow:
            scores = scores.masked_fill(~weight.keep(), -torch.inf)
        return scores

    def _compare_replicas(self) -> None:
        """See that all ranks which hold the same weights hold the same masks."""
        check_replicas(
            (
                f"the mask of {weight.name!r} at step {self.step_count}",
                weight.mask.bits.cpu().numpy().tobytes(),
                weight.replicas,
                weight.part.device,
            )
            for weight in self._weights
        )

    def _configuration(self) -> dict[str, Any]:
        return {
            "schedule": repr(self.schedule),
            "criterion": repr(self.criterion),
            "granularity": repr(self.granularity),
            "allocation": repr(self.allocation),
            "regrow": self.regrow,
            "final_sparsity": {w.name: w.schedule.final_sparsity for w in self._weights},
        }

    def _require_attached(self) -> None:
        if not self._attached:
            raise StateError(
                "this pruner is detached and holds no masks any more: make a new Pruner"
            )


class _LazyScores(Mapping[str, Tensor]):
    """Scores by name, computed when asked for, so that one tensor's are in memory at a time."""

    def __init__(
        self, weights: dict[str, MaskedWeight], score: Callable[[MaskedWeight], Tensor]
    ) -> None:
        self._weights, self._score = weights, score

    def __getitem__(self, name: str) -> Tensor:
        return self._score(self._weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _counts(optimizer: Optimizer) -> bool:
    """Whether this was a step of the training.

    It was not if a gradient scaler told it to do nothing (fused steps run all the same), nor if
    neither learning rate nor gradients could move anything: torch.distributed.checkpoint's
    ``get_state_dict`` takes such a step where an optimizer has no state.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None and bool(found_inf):
        return False
    if any(group.get("lr", 1.0) != 0.0 for group in optimizer.param_groups):
        return True
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return any(grad is not None and not is_zero(grad) for grad in grads)
