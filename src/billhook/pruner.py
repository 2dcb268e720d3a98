"""The Pruner: schedule, criterion, granularity and allocation on a model and its optimizer."""

import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from billhook.allocation import Allocation, Uniform
from billhook.criterion import Criterion, Magnitude
from billhook.errors import ConfigurationError, MaskError, StateError
from billhook.granularity import Granularity, Unstructured
from billhook.mask import Mask, survivors
from billhook.masked_weight import MaskedWeight
from billhook.optimizer_state import check_optimizer
from billhook.report import PruningReport, TensorReport
from billhook.schedule import Schedule
from billhook.selection import Rules, Selection, named_weights, select_weights

__all__ = ["Pruner"]

_log = logging.getLogger("billhook")
_STATE_VERSION = 1


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
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        for each in optimizers:
            check_optimizer(each)
        self.schedule = schedule
        self.criterion = criterion
        self.granularity = granularity
        self.allocation = allocation
        self.regrow = regrow
        self.selection = select_weights(model, rules, schedule.final_sparsity)
        self.step_count = 0
        self._weights = _attach_weights(self.selection, schedule, optimizers)
        self._handles = list(self._register_hooks(optimizers))
        self._attached = True
        _log.info("%s", self.selection)
        if schedule.begin_step == 0:
            self._update_masks()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks in force by canonical name: bool, True = kept, of the weight's shape."""
        return {weight.name: weight.mask.keep() for weight in self._weights}

    @property
    def sparsity(self) -> float:
        """The share of all selected weights that the masks in force hold at zero."""
        total = sum(weight.mask.shape.numel() for weight in self._weights)
        return 1.0 - sum(weight.mask.kept for weight in self._weights) / total if total else 0.0

    def report(self) -> PruningReport:
        """Sparsity and NNZ of every pruned tensor as it now stands."""
        return PruningReport(
            self.step_count,
            tuple(
                TensorReport(
                    name=weight.name,
                    shape=tuple(weight.mask.shape),
                    kept=weight.mask.kept,
                    nonzero=int(weight.parameter.detach().count_nonzero()),
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
            if other is None or other.parameter.shape != weight.mask.shape:
                found = "is missing" if other is None else f"is {tuple(other.parameter.shape)}"
                raise StateError(
                    f"{weight.name!r} of shape {tuple(weight.mask.shape)} {found} in this "
                    f"{type(model).__name__}: apply_to() takes a copy of the pruned model"
                )
            mask = Mask.from_bits(weight.mask.bits.to(other.parameter.device), weight.mask.shape)
            mask.zero_(other.parameter)

    def finalize(self, *, keep_masks: bool = False) -> PruningReport:
        """Check that the final sparsity is reached, then detach.

        Args:
            keep_masks: stay attached and go on holding the masks through further training.

        Raises:
            StateError: the run ended before ``end_step``; the message says what was reached.
        """
        report = self.report()
        if self.step_count < self.schedule.end_step:
            raise StateError(
                f"pruning is not over: {self.step_count} of the {self.schedule.end_step} optimizer "
                f"steps up to end_step were taken and the masks are {report.sparsity:.2%} sparse, "
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
        """
        return {
            "version": _STATE_VERSION,
            "step": self.step_count,
            "configuration": self._configuration(),
            "weights": {
                weight.name: {
                    "shape": list(weight.mask.shape),
                    "mask": weight.mask.bits.clone(),
                    "aside": None if weight.aside is None else weight.aside.clone(),
                }
                for weight in self._weights
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, before or after model and optimizer load.

        Raises:
            StateError: no pruner state, or one of another model, configuration or version; the
                message names what differs, and nothing has been changed.
        """
        self._require_attached()
        restored = self._check_state(state)
        self.step_count = state["step"]
        for weight, (mask, aside) in zip(self._weights, restored, strict=True):
            weight.restore(mask, aside)

    def _register_hooks(
        self, optimizers: list[Optimizer]
    ) -> Iterator[torch.utils.hooks.RemovableHandle]:
        for index, optimizer in enumerate(optimizers):
            mine = [weight for weight in self._weights if weight.optimizer is optimizer]
            if index == 0:
                mine += [weight for weight in self._weights if weight.optimizer is None]
            yield optimizer.register_step_pre_hook(_checks(mine))
            yield optimizer.register_step_post_hook(self._after_step(mine, counts=index == 0))

    def _after_step(
        self, weights: list[MaskedWeight], *, counts: bool
    ) -> Callable[[Optimizer, Any, Any], None]:
        def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
            for weight in weights:
                weight.hold()
            if counts and not _was_skipped(optimizer):
                self.step_count += 1
                if self.step_count in self.schedule.updates:
                    self._update_masks()

        return hook

    @torch.no_grad()
    def _update_masks(self) -> None:
        """Draw every mask anew from the raw weights, all of them before any is put in force."""
        scores = _LazyScores({weight.name: weight for weight in self._weights}, self._score)
        schedules = {weight.name: weight.schedule for weight in self._weights}
        sparsities = self.allocation(self.step_count, schedules, scores)
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

    def _score(self, weight: MaskedWeight) -> Tensor:
        scores = self.criterion(weight.raw(), weight.parameter.grad, weight.name)
        if not self.regrow:
            scores = scores.masked_fill(~weight.mask.keep(), -torch.inf)
        return scores

    def _configuration(self) -> dict[str, Any]:
        return {
            "schedule": repr(self.schedule),
            "criterion": repr(self.criterion),
            "granularity": repr(self.granularity),
            "allocation": repr(self.allocation),
            "regrow": self.regrow,
            "final_sparsity": {w.name: w.schedule.final_sparsity for w in self._weights},
        }

    def _check_state(self, state: Mapping[str, Any]) -> list[tuple[Mask, Tensor | None]]:
        """The masks and values of ``state``, once all of it fits this pruner."""
        missing = {"version", "step", "configuration", "weights"} - set(state)
        if missing:
            raise StateError(
                f"this is no pruner state: {', '.join(sorted(missing))} missing; save "
                "pruner.state_dict() in the checkpoint and load that"
            )
        if state["version"] != _STATE_VERSION:
            raise StateError(
                f"pruner state of version {state['version']}, this billhook reads "
                f"{_STATE_VERSION}: load it with the billhook that wrote it"
            )
        theirs, ours = state["configuration"], self._configuration()
        differing = [key for key in ours if theirs.get(key) != ours[key]]
        if differing:
            raise StateError(
                "pruner state of another configuration: "
                + "; ".join(f"{k} is {theirs.get(k)!r}, here {ours[k]!r}" for k in differing)
                + ". Make the Pruner as it was when the checkpoint was saved"
            )
        return [_read_weight(weight, state["weights"].get(weight.name)) for weight in self._weights]

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


def _attach_weights(
    selection: Selection, schedule: Schedule, optimizers: list[Optimizer]
) -> list[MaskedWeight]:
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for weight, target in selection.pruned:
        if weight.parameter.requires_grad and id(weight.parameter) not in owner:
            raise ConfigurationError(
                f"{weight.name!r} is selected for pruning but in no parameter group of the "
                f'optimizer: pass every optimizer, or leave it dense with rules={{"{weight.name}": '
                "None}"
            )
        if survivors(weight.parameter.numel(), target) == 0:
            warnings.warn(
                f"sparsity {target:g} leaves none of the {weight.parameter.numel()} weights of "
                f"{weight.name!r}: set another one in rules",
                stacklevel=3,
            )
    return [
        MaskedWeight(
            weight,
            dataclasses.replace(schedule, final_sparsity=target),
            owner.get(id(weight.parameter)),
        )
        for weight, target in selection.pruned
    ]


def _checks(weights: list[MaskedWeight]) -> Callable[[Optimizer, Any, Any], None]:
    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        for weight in weights:
            weight.check()

    return hook


def _was_skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler told this (fused) step to do nothing."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def _read_weight(
    weight: MaskedWeight, entry: Mapping[str, Any] | None
) -> tuple[Mask, Tensor | None]:
    shape = weight.mask.shape
    if entry is None:
        raise StateError(f"the pruner state has no mask for {weight.name!r}: another model's?")
    if tuple(entry["shape"]) != tuple(shape):
        raise StateError(
            f"the pruner state's mask for {weight.name!r} has shape {tuple(entry['shape'])}, the "
            f"weight {tuple(shape)}: another model's?"
        )
    mask = Mask.from_bits(entry["mask"].to(weight.parameter.device, copy=True), shape)
    aside = entry["aside"]
    if aside is not None and aside.numel() != shape.numel() - mask.kept:
        raise StateError(
            f"the pruner state keeps {aside.numel()} values aside for {weight.name!r}, its mask "
            f"has {shape.numel() - mask.kept} zeros: the checkpoint is damaged"
        )
    return mask, aside
