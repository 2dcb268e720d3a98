"""All pruned tensors of a model, and what is done to them together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from billhook.distributed import check_replicas, part
from billhook.errors import ConfigurationError, StateError
from billhook.mask import Mask
from billhook.masked_weight import MaskedWeight
from billhook.optimizer_hooks import parameters_of
from billhook.reparametrised import check_rows
from billhook.selection import named_weights

__all__ = ["MaskedWeights"]


class MaskedWeights(Sequence[MaskedWeight]):
    """The pruned tensors of a model, in its order.

    Args:
        weights: the tensors.
        optimizers: those that move them; the first is the one whose steps are counted.
    """

    def __init__(self, weights: Sequence[MaskedWeight], optimizers: Sequence[Optimizer]) -> None:
        self._weights = tuple(weights)
        self._optimizers = optimizers

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, index: Any) -> Any:
        return self._weights[index]

    def __iter__(self) -> Iterator[MaskedWeight]:
        return iter(self._weights)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of weights of each tensor by its name."""
        return {weight.name: weight.parameter.numel() for weight in self._weights}

    @property
    def numel(self) -> int:
        """The number of weights of all tensors."""
        return sum(self.sizes.values())

    def moved_by(self, optimizer: Optimizer) -> list[MaskedWeight]:
        """The weights this optimizer may move, and after the first those that none moves yet."""
        mine = parameters_of(optimizer)
        if optimizer is not self._optimizers[0]:
            return [weight for weight in self._weights if id(weight.parameter) in mine]
        moved = set().union(*map(parameters_of, self._optimizers[1:])) - mine
        return [weight for weight in self._weights if id(weight.parameter) not in moved]

    def apply_to(self, model: nn.Module) -> None:
        """Write the zeros into another copy of the model.

        Raises:
            ConfigurationError: it is not a module.
            StateError: it lacks a pruned tensor, or has it in another shape or without values.
        """
        if not isinstance(model, nn.Module):
            raise ConfigurationError(
                f"apply_to() takes a torch.nn.Module, not a {type(model).__name__}: load a "
                "state_dict into a model first"
            )
        others = {name: weight for weight in named_weights(model) for name in weight.names}
        for weight in self._weights:
            other = others.get(weight.name)
            mine = None if other is None else part(other.parameter)
            if mine is None or mine.shape != weight.mask.shape or mine.is_meta:
                found = "is missing" if mine is None else f"is {tuple(mine.shape)} on {mine.device}"
                raise StateError(
                    f"{weight.name!r} of shape {tuple(weight.mask.shape)} {found} in this "
                    f"{type(model).__name__}: apply_to() takes a copy of the pruned model"
                )
            Mask.from_bits(weight.mask.bits.to(mine.device), weight.mask.shape).zero_(mine)

    def prepare(self, step: int, *, grows: bool) -> None:
        """Before the backward pass of an update that ``grows`` weights, ask for their gradients."""
        if grows:
            for weight in self._weights:
                weight.gradient.collect(step in weight.schedule.updates)

    def put_in_force(self, masks: Mapping[str, Mask | Tensor], step: int, *, regrow: bool) -> None:
        """Put the masks of an update in force, once none of them is refused.

        Args:
            masks: bools (True = kept) or masks of this rank's part, by the tensor's name.
            step: the update's.
            regrow: whether what becomes masked may return at a later update.

        Raises:
            MaskError: a mask would leave nothing in a row by whose norm the model divides.
        """
        changing = [weight for weight in self._weights if weight.name in masks]
        for weight in changing:
            check_rows(weight.weight.owners, masks[weight.name], f"{weight.name!r} at step {step}")
        for weight in changing:
            schedule, last = weight.schedule, step == weight.schedule.end_step
            keep_aside = regrow and not last and not schedule.restarts
            weight.set_mask(masks[weight.name], keep_aside=keep_aside)
            if schedule.restarts and schedule(step) != schedule(step - 1):
                weight.forget_state()

    def compare_replicas(self, step: int) -> None:
        """See that all ranks which hold the same weights hold the same masks.

        Raises:
            StateError: they do not.
        """
        check_replicas(
            (
                f"the mask of {weight.name!r} at step {step}",
                weight.mask.bits.cpu().numpy().tobytes(),
                weight.replicas,
                weight.part.device,
            )
            for weight in self._weights
            if weight.replicas
        )
