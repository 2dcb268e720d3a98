"""Mistakes in a training loop that would otherwise pass unnoticed, looked for around its steps."""

import warnings
from collections.abc import Iterable, Sequence

from torch.optim import Optimizer

from billhook.distributed import is_first_rank
from billhook.errors import StateError
from billhook.masked_weight import MaskedWeight
from billhook.optimizer_hooks import StepCount, parameters_of
from billhook.optimizer_state import age_of_state

__all__ = ["LoadedStates", "check_foreign_step", "unfinished", "warn_of_loose_zeros"]

#: The share of a tensor that is zero, not masked, above which it comes from a sparse checkpoint.
LOOSE_ZEROS = 0.01


def check_foreign_step(
    optimizer: Optimizer, given: Sequence[Optimizer], weights: Iterable[MaskedWeight]
) -> None:
    """See that an optimizer which the pruner was not ``given`` moves none of its weights.

    Raises:
        StateError: it does.
    """
    theirs = parameters_of(optimizer)
    moved = [weight for weight in weights if id(weight.parameter) in theirs]
    if any(weight.parameter.grad is not None for weight in moved):
        kinds = ", ".join(type(each).__name__ for each in given)
        raise StateError(
            f"an optimizer ({type(optimizer).__name__}) takes a step on {moved[0].name!r} that "
            f"the Pruner was not given (it has {kinds}), so nothing would be counted or held: "
            "give the Pruner every optimizer, [first, second], or the inner one of a wrapper; "
            "for a new optimizer in mid-run, detach() this pruner, make one with the new "
            "optimizer and load_state_dict() its state"
        )


def unfinished(steps: int, end: int, counted: str, reached: str, captured: bool) -> StateError:
    """What is wrong with a run that ended after ``steps`` steps of the optimizer ``counted``."""
    fix = (
        "a step was captured in a CUDA graph: call pruner.replayed() after each replay"
        if captured
        else "train on, give a schedule whose end_step lies within the run, or, if another "
        "optimizer took the steps, attach to that one"
    )
    return StateError(
        f"pruning is not over: {steps} of the {end} steps up to end_step were taken by the "
        f"optimizer this pruner counts ({counted}) and {reached}; {fix}"
    )


class LoadedStates:
    """Sees that the pruner's state is not forgotten where an optimizer's is loaded."""

    def __init__(self, weights: Sequence[MaskedWeight]) -> None:
        self._weights = weights
        self._loads: dict[Optimizer, int | None] = {}  # since their last step: the age of the old
        self._restored: set[Optimizer] = set()  # took no step since the pruner's state was loaded

    def before_load(self, optimizer: Optimizer) -> None:
        """The state of ``optimizer`` is about to be replaced."""
        self._loads[optimizer] = self._age(optimizer)

    def restored(self, optimizers: Iterable[Optimizer]) -> None:
        """The pruner's own state was loaded: what is loaded into ``optimizers`` belongs to it."""
        self._restored = set(optimizers)

    def was_loaded(self, optimizer: Optimizer, steps: StepCount) -> bool:
        """Whether the state was replaced since the last step; the pruner has counted ``steps``.

        Raises:
            StateError: it comes from the middle of a run, and the pruner's was not loaded with it.
        """
        restored = optimizer in self._restored
        self._restored.discard(optimizer)
        if optimizer not in self._loads:
            return False
        before = self._loads.pop(optimizer)
        if restored:
            return True
        after = self._age(optimizer)
        restart = before is None and after is not None and steps.value == 0
        rollback = before is not None and after is not None and before != after
        if restart or rollback:
            raise StateError(
                f"the state of {type(optimizer).__name__} was loaded from a run under way, but the "
                f"pruner stays at step {steps.value} of its own: load the pruner state of that "
                "checkpoint too (pruner.load_state_dict), or, to begin pruning there, make the "
                "Pruner after the optimizer's state is loaded"
            )
        return True

    def _age(self, optimizer: Optimizer) -> int | None:
        ages = (age_of_state(optimizer, weight.parameter) for weight in self._weights)
        return next((age for age in ages if age is not None), None)


def warn_of_loose_zeros(weights: Iterable[MaskedWeight]) -> None:
    """Warn of the zeros of a sparse checkpoint that no mask holds: training would move them."""
    loose = {w: w.loose_zeros() for w in weights if not w.schedule.restarts}
    shares = {w: count / w.parameter.numel() for w, count in loose.items() if count}
    sparse = [weight for weight, share in shares.items() if share > LOOSE_ZEROS]
    if sparse and is_first_rank():
        worst = max(sparse, key=shares.__getitem__)
        others = f", as in {len(sparse) - 1} more tensors" if len(sparse) > 1 else ""
        warnings.warn(
            f"{loose[worst]} of the {worst.parameter.numel()} weights of {worst.name!r} are "
            f"zero but not masked{others}: training moves them. If they "
            "are to stay, load the pruner state that belongs to these weights, or start "
            "from their sparsity with initial_sparsity=, or hold them with Hold()",
            stacklevel=3,
        )
