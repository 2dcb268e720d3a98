"""The statistics of criteria between mask updates: one running average per pruned tensor."""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from billhook.distributed import is_sharded, part, whole
from billhook.errors import ConfigurationError, MaskError, StateError
from billhook.masked_weight import MaskedWeight
from billhook.optimizer_hooks import StepCount
from billhook.saliency import Averaged, Wanda

__all__ = ["Statistics"]

_MEASURED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Statistics:
    """The running averages of an :class:`Averaged` criterion; other criteria have none."""

    def __init__(self, criterion: object) -> None:
        self._criterion = criterion if isinstance(criterion, Averaged) else None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = {}  # on a device where a scaler may skip

    def register_hooks(
        self, weights: Sequence[MaskedWeight]
    ) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Measure the inputs of the weights' layers, if the criterion looks at them.

        Raises:
            ConfigurationError: a tensor's layer has no inputs of its columns, or it is on several
                ranks, which see different inputs.
        """
        if not isinstance(self._criterion, Wanda):
            return
        for weight in weights:
            if weight.replicas or is_sharded(weight.parameter):
                raise ConfigurationError(
                    f"{self._criterion} measures inputs, and each rank sees different ones: "
                    f"{weight.name!r} would be ranked differently; prune in one process"
                )
            owners = [module for module, name in weight.weight.owners if name == "weight"]
            if not owners or not all(isinstance(module, _MEASURED) for module in owners):
                raise ConfigurationError(
                    f"{self._criterion} measures inputs of Linear and Conv layers, {weight.name!r} "
                    f"belongs to a {type(weight.weight.owners[0][0]).__name__}: leave it dense "
                    f"with rules={{{weight.name!r}: None}}"
                )
            for module in owners:
                yield module.register_forward_pre_hook(self._hook(weight))

    def observe(
        self, weights: Iterable[MaskedWeight], steps: StepCount, optimizer: Optimizer | None = None
    ) -> None:
        """Add the gradients of the step that is about to be taken; waits for no device.

        A gradient scaler leaves ``grad_scale``, by which fused optimizers divide, and ``found_inf``
        on the optimizer: a step that will be skipped adds nothing.

        Args:
            weights: the weights of the optimizer that takes the step.
            steps: the steps taken so far.
            optimizer: it, if there is one.
        """
        if self._criterion is None or self._criterion.needs != "gradient":
            return
        scale, found_inf = (getattr(optimizer, each, None) for each in ("grad_scale", "found_inf"))
        for weight in weights:
            if weight.parameter.grad is None or not self._counts_at(weight, steps):
                continue
            grad = part(weight.parameter.grad)
            grad = grad.to_dense() if grad.is_sparse else grad
            seen = self._criterion.observe(weight.part.detach(), _unscaled(grad, scale))
            if seen.shape != weight.part.shape or seen.dtype != torch.float32:
                raise MaskError(
                    f"{self._criterion}.observe() gave {seen.dtype} of shape {tuple(seen.shape)} "
                    f"for {weight.name!r}: return torch.float32 of {tuple(weight.part.shape)}"
                )
            if found_inf is None:
                self._add(weight.name, seen)
            else:
                taken = found_inf == 0
                self._add(weight.name, seen.masked_fill(~taken, 0.0), taken.to(torch.int64))

    def score(self, weight: MaskedWeight) -> Tensor | None:
        """The criterion's scores from the average, or None if it keeps none or has seen nothing."""
        if self._criterion is None or not self._count(weight.name):
            return None
        mean = self._sums[weight.name].to(weight.part.device) / self._count(weight.name)
        return whole(self._criterion.score(part(weight.raw()), mean).contiguous(), weight.parameter)

    def after_update(self, names: Iterable[str]) -> None:
        """Forget the averages that the masks just drawn were computed from."""
        if self._criterion is not None and self._criterion.starts_anew:
            for name in names:
                self._sums.pop(name, None)
                self._counts.pop(name, None)

    def state_dict(self, weights: Sequence[MaskedWeight]) -> dict[str, Any]:
        """Sums, laid out as the weights are, and counts."""
        return {
            weight.name: {
                "sum": self._sums[weight.name].clone()
                if isinstance(self._criterion, Wanda)
                else whole(self._sums[weight.name].clone(), weight.parameter),
                "count": self._count(weight.name),
            }
            for weight in weights
            if self._count(weight.name)
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            StateError: there is none, but the criterion needs it.
        """
        if self._criterion is None:
            return
        if state is None:
            raise StateError(
                f"the pruner state lacks the averages of {self._criterion}: it was saved by "
                "a billhook that did not keep them"
            )
        self._sums = {name: part(entry["sum"]).clone() for name, entry in state.items()}
        self._counts = {name: int(entry["count"]) for name, entry in state.items()}

    def _count(self, name: str) -> int:
        """The steps in a tensor's average; waits where a scaler may have skipped some."""
        self._counts[name] = int(self._counts.get(name, 0))
        return int(self._counts[name])

    def _counts_at(self, weight: MaskedWeight, steps: StepCount) -> bool:
        """Whether the step after these counts for the next update of the weight's mask."""
        first, last = (self._counts_after(weight, each) for each in (steps.at_least, steps.at_most))
        return first if first == last else self._counts_after(weight, steps.value)

    def _counts_after(self, weight: MaskedWeight, step: int) -> bool:
        assert self._criterion is not None
        updates = weight.schedule.updates
        place = bisect.bisect_right(updates, step)
        if place == len(updates) or weight.schedule.holds_zeros:
            return False
        return self._criterion.last is None or updates[place] - step <= self._criterion.last

    def _add(self, name: str, seen: Tensor, count: Tensor | int = 1) -> None:
        if name in self._sums:
            self._sums[name] = self._sums[name].to(seen.device).add_(seen)
            self._counts[name] = self._counts[name] + count
        else:
            self._sums[name], self._counts[name] = seen.clone(), count

    def _hook(self, weight: MaskedWeight) -> Any:
        def measure(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                assert isinstance(self._criterion, Wanda)
                self._add(weight.name, self._criterion.observe_inputs(module, args[0]))

        return measure


def _unscaled(grad: Tensor, scale: Tensor | None) -> Tensor:
    """``grad / scale`` as a fused optimizer computes it, in fp32 at least."""
    if scale is None:
        return grad
    wide = torch.promote_types(grad.dtype, torch.float32)
    return (grad.to(wide) / scale.to(wide)).to(grad.dtype)
