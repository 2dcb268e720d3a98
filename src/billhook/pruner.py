"""The Pruner: schedule, criterion, granularity and allocation on a model and its optimizer."""

import weakref
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from billhook import attach, training_checks
from billhook.allocation import Allocation, Uniform
from billhook.arguments import check_arguments
from billhook.backends.triton import is_capturing
from billhook.criterion import Criterion, Magnitude
from billhook.distributed import is_first_rank
from billhook.draw import MaskDrawer
from billhook.errors import StateError
from billhook.granularity import Granularity, Unstructured
from billhook.masked_weights import MaskedWeights
from billhook.optimizer_hooks import (
    StepCount,
    check_optimizers,
    forget,
    is_idle,
    register_hooks,
    wait_for_backward,
)
from billhook.pruner_state import STATE_VERSION, configuration, pack_weight, read_state
from billhook.regrowth import GradientRegrowth
from billhook.report import PruningReport
from billhook.saliency import Averaged
from billhook.schedule import Schedule, merged_updates
from billhook.selection import Rules, select_weights
from billhook.selection_advice import log_selection
from billhook.statistics import Statistics

__all__ = ["Pruner"]


class Pruner:
    """Prunes a model while it trains; the training loop stays as it was.

    Attaching registers hooks on the optimizer and on the gradients. After each optimizer step that
    lies on the schedule's grid the masks are drawn anew from the raw weights; after every step the
    masked weights, their gradients and their optimizer state are zero.

    Args:
        model: any module. What is pruned is logged when the pruner attaches; see
            :func:`billhook.selection.select_weights` for the default and ``rules``.
        optimizer: the optimizer of the selected weights, or a list of optimizers; the first one
            counts the steps.
        schedule: sparsity over the steps.
        criterion: what a weight is worth; the smallest scores are pruned.
        granularity: what is pruned together.
        allocation: how the schedule becomes a sparsity for each tensor.
        rules: the final sparsity or the schedule of some tensors, or None to leave them dense.
        regrow: whether a masked weight can return when others shrink below it (the paper's way),
            or a :class:`billhook.GradientRegrowth`, which drops and grows weights.

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
        regrow: bool | GradientRegrowth = True,
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
        optimizers = check_optimizers(optimizer)
        attach.check_model(model)
        self.schedule = schedule
        self.criterion = criterion
        self.granularity = granularity
        self.allocation = allocation
        self.regrow = regrow
        self.selection = select_weights(model, rules, schedule.final_sparsity)
        attach.check_weights(self.selection)
        self._statistics = Statistics(criterion)
        self._drawer = MaskDrawer(criterion, granularity, allocation, regrow, self._statistics)
        schedules = {
            w.name: self.selection.schedule_of(w, schedule) for w, _ in self.selection.pruned
        }
        self._drawer.check(  # what cannot work fails now, not at the first update
            {w.name: w.pattern_shape for w, _ in self.selection.pruned}, schedules
        )
        self._updates = merged_updates(schedules.values())
        self._model = weakref.ref(model)
        self._optimizers = optimizers
        self._steps = StepCount()
        self._captured = False  # a step was recorded into a CUDA graph
        self._updated = -1  # the last step whose mask update is done
        self._new = True  # no step was taken since the masks were drawn or loaded
        self._attached = False
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._weights = MaskedWeights(
            attach.attach_weights(model, self.selection, schedules, optimizers), optimizers
        )
        self._states = training_checks.LoadedStates(self._weights)
        try:
            self._attach(model)
        except BaseException:
            self.detach()
            raise

    def _attach(self, model: nn.Module) -> None:
        attach.check_ranks(model, self._weights, self._configuration())
        self._handles = register_hooks(self._optimizers, self)
        self._handles += self._statistics.register_hooks(self._weights)
        self._attached = True
        if is_first_rank():
            alike = isinstance(self.allocation, Uniform)
            log_selection(self.selection, self.granularity, each_alike=alike)
        self._update_if_due()
        self._prepare_step()
        for weight in self._weights:
            weight.mark_attached()

    @property
    def is_attached(self) -> bool:
        """Whether this pruner still holds its masks: neither detached nor finalized."""
        return self._attached

    @property
    def step_count(self) -> int:
        """The optimizer steps taken since the pruner attached, or since its state's run began."""
        return self._steps.value

    def __repr__(self) -> str:
        """The sparsity and step that are reached, and the parts it was made of."""
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
            f"<Pruner of {len(self._weights)} tensors with {self._weights.numel:,} weights, "
            f"{self.sparsity:.2%} sparse after {self.step_count:,} steps"
            f"{'' if self._attached else ', detached'}: {', '.join(parts)}>"
        )

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks in force by canonical name: bool, True = kept, laid out as the weight is."""
        return {weight.name: weight.alive() for weight in self._weights}

    @property
    def sparsity(self) -> float:
        """The share of all selected weights (on this rank) that the masks in force hold at zero."""
        count = self._weights.numel
        return 1.0 - sum(weight.kept for weight in self._weights) / count if count else 0.0

    @property
    def updates(self) -> Sequence[int]:
        """The steps at which any mask changes, over all schedules that ``rules`` give."""
        return self._updates

    @property
    def end_step(self) -> int:
        """The step of the last mask update, over all schedules that ``rules`` give."""
        return self._updates[-1]

    def report(self) -> PruningReport:
        """The present sparsity and number of nonzeros of every pruned tensor.

        Counts of sharded tensors are added up over the ranks: call it on all of them.
        """
        return self._weights.report(self.step_count)

    def apply_to(self, model: nn.Module) -> None:
        """Write this pruner's zeros into another copy of the model, such as its moving average.

        Raises:
            ConfigurationError: ``model`` is not a module.
            StateError: ``model`` lacks a pruned tensor, or has it in another shape or on ``meta``.
        """
        self._weights.apply_to(model)

    def finalize(self, *, keep_masks: bool = False) -> PruningReport:
        """Check that the final sparsity is reached, then detach.

        Args:
            keep_masks: stay attached and go on holding the masks through further training.

        Raises:
            StateError: the run ended before ``end_step``, or the weights are not what the masks
                say, or NaN; the message says what was reached.
        """
        wanted = self.schedule.final_sparsity
        reached = f"the masks are {self.sparsity:.2%} sparse, not {wanted:.2%}"
        if self.step_count < self.end_step:
            counted = type(self._optimizers[0]).__name__
            raise training_checks.unfinished(
                self.step_count, self.end_step, counted, reached, self._captured
            )
        if (due := self._due()) is not None:
            raise StateError(
                f"the mask update of step {due} was interrupted or failed, and no step was taken "
                f"since: {reached}; train on, the next step does it again"
            )
        attach.check_places(self._model(), self._weights)
        self._weights.check_zeros()
        attach.warn_of_thawed(self.selection)
        if not keep_masks:
            self.detach()
        return self.report()

    def detach(self) -> None:
        """Remove all hooks and the values kept aside. The zeros stay in the weights as they are."""
        for handle in self._handles:
            handle.remove()
        forget(self)
        for weight in self._weights:
            weight.release()
        self._attached = False

    def state_dict(self) -> dict[str, Any]:
        """Masks (one bit per weight), values kept aside, step and configuration.

        Holds tensors, numbers and strings only: ``torch.load(..., weights_only=True)`` reads it.
        A pruner can also be given to torch.distributed.checkpoint as it is.
        """
        state = {
            "version": STATE_VERSION,
            "step": self.step_count,
            "updated": self._updated,
            "configuration": self._configuration(),
            "weights": {weight.name: pack_weight(weight) for weight in self._weights},
        }
        if isinstance(self.criterion, Averaged):
            state["statistics"] = self._statistics.state_dict(self._weights)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, before or after model and optimizer load.

        Raises:
            StateError: this is not a pruner state, or it is one of another model, configuration or
                version; the message names what differs, and nothing has been changed.
        """
        self._require_attached()
        restored = read_state(
            state,
            self._configuration(),
            self._weights,
            regrow=self.regrow is True,
            due=lambda step: self._drawer.due(self._weights, step),
            due_together=lambda step: self._drawer.due_together(self._weights, step),
        )
        self._statistics.load_state_dict(state.get("statistics"))
        self._steps = StepCount(state["step"])
        self._updated = state["updated"]
        self._new = True
        self._states.restored(self._optimizers)
        for weight, (mask, aside) in zip(self._weights, restored, strict=True):
            weight.restore(mask, aside)
        self._weights.compare_replicas(self.step_count)
        self._prepare_step()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise StateError(
            "a Pruner cannot be copied or pickled: its hooks sit in this process's model and "
            "optimizer. Save pruner.state_dict(), make a Pruner for the copied model and its "
            "optimizer, and load_state_dict() there"
        )

    def before_step(self, optimizer: Optimizer) -> None:
        """Called by the optimizer: see that weights and state are as this pruner left them."""
        self._weights.checks.check()
        if optimizer is self._optimizers[0]:
            self._update_if_due()  # one that was interrupted
        weights = self._weights.moved_by(optimizer)
        self._weights.check(weights)
        if is_idle(optimizer):
            return
        self._statistics.observe(weights, self._steps, optimizer)
        if self._states.was_loaded(optimizer, self._steps):
            for weight in weights:
                weight.hold_state()
        if self._new:
            self._new = False
            if not isinstance(self.regrow, GradientRegrowth):  # weights start at zero on purpose
                training_checks.warn_of_loose_zeros(self._weights)

    def after_step(self, optimizer: Optimizer) -> None:
        """Called by the optimizer: hold the zeros, count the step, update the masks in time."""
        self._weights.after_step(optimizer)
        if is_capturing():
            self._captured = True
        elif optimizer is self._optimizers[0]:
            self._steps.add(optimizer)
            # Within a backward pass other weights are still to be used as they are.
            if not wait_for_backward(self._finish_step):
                self._finish_step()

    def replayed(self) -> None:
        """Count a step that was taken by replaying a CUDA graph; call it after each replay.

        No Python runs in a replay, so nobody else counts it. The graph holds the masks in force,
        whatever they are by then. An update that is due is made here, in the memory that the graph
        reads. Capture after a few ordinary steps, and keep the pruner as long as the graph.

        Raises:
            StateError: no step of the pruner's optimizer was captured.
        """
        self._require_attached()
        if not self._captured:
            raise StateError(
                "replayed() counts the replay of a CUDA graph, but no step of "
                f"{type(self._optimizers[0]).__name__} was captured since the pruner attached: "
                "capture optimizer.step() with the rest, or leave replayed() out"
            )
        self._weights.checks.check()
        self._steps.add(self._optimizers[0])
        self._finish_step()

    def _finish_step(self) -> None:
        self._update_if_due()
        self._prepare_step()

    def _prepare_step(self) -> None:
        if isinstance(self.regrow, GradientRegrowth):
            self._weights.collect_gradients(self.step_count + 1)

    def before_foreign_step(self, optimizer: Optimizer) -> None:
        """Called by an optimizer this pruner was not given: does it move the pruned weights?"""
        training_checks.check_foreign_step(optimizer, self._optimizers, self._weights)

    def before_load(self, optimizer: Optimizer) -> None:
        """Called by the optimizer when its state is to be replaced, before or after this one's."""
        self._states.before_load(optimizer)

    def _due(self) -> int | None:
        """The first step of a mask update that is to be made by now, if any is."""
        updates = self._updates
        index = bisect_right(updates, self._updated)
        if index == len(updates) or updates[index] > self._steps.at_most:
            return None
        return updates[index] if updates[index] <= self.step_count else None

    def _update_if_due(self) -> None:
        while (step := self._due()) is not None:
            self._update_masks(step)
            self._updated = step

    @torch.no_grad()
    def _update_masks(self, step: int) -> None:
        """Draw the masks anew from the raw weights, all of them before any is put in force."""
        attach.check_places(self._model(), self._weights)
        masks = self._drawer.draw(self._weights, step)
        self._weights.put_in_force(masks, step, regrow=self.regrow is True)
        self._statistics.after_update(masks)
        self._weights.compare_replicas(self.step_count)

    def _configuration(self) -> dict[str, Any]:
        parts = self._drawer.configuration
        return configuration(self.schedule, parts, self.selection, self._weights)

    def _require_attached(self) -> None:
        if not self._attached:
            raise StateError(
                "this pruner is detached and holds no masks any more: make a new Pruner"
            )
