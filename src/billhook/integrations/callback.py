"""What the callbacks share: a Pruner made in the middle of a framework's training loop."""

import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from billhook import Pruner
from billhook.arguments import check_parts
from billhook.errors import ConfigurationError, StateError
from billhook.integrations.run_length import RunLength
from billhook.schedule import Schedule

__all__ = ["AttachesPruner"]

_log = logging.getLogger("billhook")


class AttachesPruner:
    """Base of the callbacks: takes what a Pruner takes, and makes one when training starts.

    The schedule may be a function of the :class:`RunLength`: it is called when the run starts. A
    run that goes on from a checkpoint is given the length with which it began, so that its
    schedule stays the same.

    Raises:
        TypeError: an option that Pruner does not have, long before one is made.
        ConfigurationError: the schedule is neither a Schedule nor a function.
    """

    _all: ClassVar["weakref.WeakSet[AttachesPruner]"] = weakref.WeakSet()

    schedule: Schedule
    """Sparsity over the optimizer steps; made when training starts if a function was given."""

    def __init__(
        self, schedule: Schedule | Callable[[RunLength], Schedule], **options: Any
    ) -> None:
        inspect.signature(Pruner).bind(None, None, schedule, **options)
        self._function: Callable[[RunLength], Schedule] | None = None
        if inspect.isroutine(schedule) or isinstance(schedule, functools.partial):
            self._function = schedule
        else:
            check_parts(schedule=schedule)
            self.schedule = schedule  # type: ignore[assignment]
        self._length: RunLength | None = None  # of the run that the function was called for
        self.options = options
        #: The pruner of the present or last run.
        self.pruner: Pruner | None = None
        self._stopped: dict[str, Any] | None = None  # its state when an exception ended the run
        self._run: object = None

    @property
    def end_step(self) -> int:
        """The last step at which a mask changes, schedules that rules set included."""
        others = (self.options.get("rules") or {}).values()
        ends = [each.end_step for each in others if isinstance(each, Schedule)]
        return max([self.schedule.end_step, *ends])

    def _attach(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        state: Mapping[str, Any] | None,
        *,
        run: object,
        steps_left: float,
        length: RunLength | None,
        began: Mapping[str, Any] | None,
    ) -> Pruner:
        """A Pruner for a new run, or with a ``state`` for one that goes on from a checkpoint.

        The framework has already loaded the checkpoint's weights into ``model``.

        Args:
            model: what is trained.
            optimizers: its optimizers, the first counts.
            state: the pruner's, or None.
            run: the framework's own object for this run, the same for all its callbacks.
            steps_left: how many steps the first optimizer is going to take at most.
            length: of this run, None if the framework does not know it.
            began: the length that :meth:`_saved_length` gave for the checkpoint.

        Raises:
            ConfigurationError: the run ends before ``end_step``, or the schedule is a function and
                the run's length is not known.
            StateError: the state is not a pruner's, is another model's or configuration's, or was
                not saved together with these weights.
        """
        self._stop()
        self._settle(length if began is None else RunLength(**began))
        taken = state["step"] if state else 0
        if self.end_step > taken + steps_left:
            raise ConfigurationError(
                f"this run ends at step {taken + steps_left:.0f}, but the schedule's end_step is "
                f"{self.end_step}: train for more steps, or give a schedule that ends "
                f"within the run, such as end_step={(taken + steps_left) * 3 // 4:.0f}"
            )
        self._take_over(model, run)
        nonzero = _count_nonzero(model) if state is not None else {}
        self.pruner = Pruner(model, optimizers, self.schedule, **self.options)
        self._run, self._stopped = run, None
        self._all.add(self)
        if state is not None:
            try:
                self.pruner.load_state_dict(state)
                _check_unchanged(nonzero, _count_nonzero(model))
            except StateError:
                self.pruner.detach()
                raise
        return self.pruner

    def _settle(self, length: RunLength | None) -> None:
        """Make the schedule, if it is a function of the run's length."""
        if self._function is None:
            return
        if length is None:
            raise ConfigurationError(
                "the schedule is a function of the run's length, which is not known here: give "
                "the trainer a number of steps or epochs, or the schedule its steps"
            )
        self.schedule = self._function(length)
        check_parts(schedule=self.schedule)
        self._length = length

    def _saved_length(self) -> dict[str, Any]:
        """What a checkpoint has beside the pruner's state."""
        return {} if self._length is None else {"length": self._length.to_dict()}

    def _stop(self) -> None:
        """Detach from a run that ended early; keep the state, from which a later one may go on."""
        if self.pruner is not None and self.pruner.is_attached:
            self._stopped = self.pruner.state_dict()
            self.pruner.detach()
        self._run = None

    def _beside(self, run: object) -> list["AttachesPruner"]:
        """The other callbacks that prune in the same run, in the order of their attaching."""
        others = [each for each in self._all if each is not self]
        return [each for each in others if run is not None and each._run is run]

    def _take_over(self, model: nn.Module, run: object) -> None:
        """Stop callbacks of runs that ended by an exception (nobody told them) on these weights."""
        mine = {id(parameter) for parameter in model.parameters()}
        for other in list(self._all):
            pruner = other.pruner
            if other._run is run or other is self or pruner is None or not pruner.is_attached:
                continue
            if any(id(weight.parameter) in mine for weight, _ in pruner.selection.pruned):
                _log.info(
                    "an earlier run on these weights stopped at step %d: its pruner is detached",
                    pruner.step_count,
                )
                other._stop()

    def _sparsity(self) -> float:
        """The share of weights that are masked by this callback and those beside it."""
        pruners = [each.pruner for each in (self, *self._beside(self._run))]
        sizes = [
            sum(weight.parameter.numel() for weight, _ in pruner.selection.pruned)
            for pruner in pruners
            if pruner is not None
        ]
        shares = [pruner.sparsity for pruner in pruners if pruner is not None]
        total = sum(sizes)
        return sum(map(float.__mul__, shares, map(float, sizes))) / total if total else 0.0


def _count_nonzero(model: nn.Module) -> dict[str, int]:
    return {name: int(p.count_nonzero()) for name, p in model.named_parameters()}


def _check_unchanged(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """See that a restored pruner found its zeros in the weights already."""
    for name in before:
        if strays := before[name] - after[name]:
            raise StateError(
                f"{strays} weights of {name!r} were not zero where the mask of the pruner state "
                "is: weights and pruner state are of different checkpoints; resume from one that "
                "has both"
            )
