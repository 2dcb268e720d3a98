"""All pruned tensors of a model, and what is done to them together."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from billhook import torch_private
from billhook.backends import native
from billhook.backends.nans import LateCheck, nan_scores
from billhook.batches import Batches
from billhook.distributed import check_replicas, part, reader_of_parts, total
from billhook.errors import ConfigurationError, MaskError, StateError
from billhook.fixed_points import is_fixed_point
from billhook.mask import Mask
from billhook.masked_gradients import MaskedGradients
from billhook.masked_weight import Drawn, MaskedWeight
from billhook.optimizer_hooks import parameters_of, with_parts
from billhook.places import Places
from billhook.reparametrised import check_rows
from billhook.report import PruningReport, TensorReport
from billhook.schedule import Schedule
from billhook.selection import named_weights

__all__ = ["MaskedWeights"]


class MaskedWeights(Sequence[MaskedWeight]):
    """The pruned tensors of a model, in its order.

    Args:
        weights: the tensors.
        optimizers: those that move them; the first is the one whose steps are counted.
    """

    def __init__(
        self, weights: Sequence[MaskedWeight], optimizers: Sequence[Optimizer] = ()
    ) -> None:
        self._weights = tuple(weights)
        self._parameters: list[Tensor] = [weight.parameter for weight in weights]
        self._parts = reader_of_parts(self._parameters)
        self._optimizers = list(optimizers)
        self._keepers = with_parts(optimizers)
        self._noted = [0] * len(weights)  # the versions when they were known to be zero
        for place, weight in enumerate(weights):
            weight.join(self._noted, place)
        self._batches = Batches()
        for weight in self._weights:  # kernels are compiled now, not at the first update
            self._batches.takes(weight.part.device)
        #: What devices have not reported yet: NaN scores, and weights written at masked places.
        self.checks = LateCheck()
        self.gradients = MaskedGradients([weight.gradient for weight in weights], self._batches)
        self._places = Places([weight.weight for weight in weights])
        self._is_settled = False  # gradients and state are zero where weights are masked

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

    def moved_by(self, optimizer: Optimizer) -> Sequence[MaskedWeight]:
        """The weights this optimizer may move, and after the first those that none moves yet."""
        if [optimizer] == self._optimizers:
            return self._weights
        mine = parameters_of(optimizer)
        if optimizer is not self._optimizers[0]:
            return [weight for weight in self._weights if id(weight.parameter) in mine]
        moved = set().union(*map(parameters_of, self._optimizers[1:])) - mine
        return [weight for weight in self._weights if id(weight.parameter) not in moved]

    def check(self, weights: Sequence[MaskedWeight]) -> None:
        """Before a step, see that weights are the model's and zero at masked places.

        Gradients that were written since the backward pass are masked again.

        Raises:
            StateError: another Parameter stands in a weight's place, or weights were written that
                are not zero where the mask is; off the CPU at the next step that knows.
        """
        self._is_settled = False
        every = len(weights) == len(self)
        if not (every and self._places.are_as_noted()):
            for weight in weights:
                weight.check()
            if every:
                self._places.note()
        late = {}
        for weight in self._written(weights):
            if (count := weight.written_at_masked()) is None:
                continue
            if not count.is_cpu:
                late[weight.name] = count
            elif found := int(count):
                raise _written(weight.name, found)
            weight.checked()
        self.checks.expect(late, _written)
        if every:
            self.gradients.mask()
        else:
            self.gradients.mask_some(weight.gradient for weight in weights)

    def check_zeros(self) -> None:
        """See that every masked weight is zero. Waits for the devices.

        Raises:
            StateError, MaskError: one is not, or is NaN, or a device has reported something else.
        """
        self.check(self._weights)
        self.checks.check(wait=True)
        for weight in self._weights:
            if nans := weight.nans():
                raise StateError(
                    f"{nans} of the {weight.parameter.numel()} weights of {weight.name!r} are NaN: "
                    "go back to an earlier checkpoint, and look for the divergence that brought "
                    "them in (learning rate, loss, data)"
                )
            if strays := weight.strays():
                raise StateError(
                    f"{strays} weights of {weight.name!r} are not zero where the mask is: they "
                    "were written behind torch's back, through .data; call pruner.apply_to(model)"
                )
            weight.hold()

    def after_step(self, optimizer: Optimizer) -> None:
        """Hold the zeros after a step of ``optimizer``."""
        fixed = is_fixed_point(optimizer)
        settled = fixed and all(map(is_fixed_point, self._keepers))
        weights = self.moved_by(optimizer)
        if not fixed:
            for weight in weights:
                weight.hold()
        elif self._places.in_main_memory:
            for weight in weights:
                if native.in_main_memory(weight.parameter):
                    weight.hold_if_moved()
        if len(weights) == len(self):
            self._noted[:] = self._versions()
        else:
            for weight in weights:
                weight.checked()
        self._is_settled = settled

    def _written(self, weights: Sequence[MaskedWeight]) -> list[MaskedWeight]:
        """Those that were written since they were known to be zero where they are masked."""
        if len(weights) == len(self) and self._versions() == self._noted:
            return []
        return [weight for weight in weights if weight.was_written]

    def _versions(self) -> list[int]:
        return torch_private.versions(self._parts(self._parameters))

    def rank(self, counts: Mapping[str, int], step: int) -> dict[str, Drawn]:
        """The masks of the largest raw magnitudes of tensors that are not sharded.

        What ``Magnitude`` and ``Unstructured`` draw, with nothing made but the masks. Where a score
        on a device is NaN, the mask in force stays, and a later :attr:`checks` says so.

        Args:
            counts: how many weights survive, by tensor.
            step: the update's.

        Raises:
            MaskError: a score in main memory is NaN.
        """
        weights = [weight for weight in self._weights if weight.name in counts]
        found = self._batches.rank([weight.held(counts[weight.name]) for weight in weights])
        masks, nans = {}, {}
        for weight, together in zip(weights, found, strict=True):
            count = counts[weight.name]
            if together is None:
                mask, bad = weight.rank(count)
            else:
                mask, bad = Mask.over(together[0], weight.mask.shape, count), together[1]
            if isinstance(bad, Tensor):
                nans[weight.name] = bad
            elif bad:
                raise self._nan_error(step, weight.name, bad)
            masks[weight.name] = Drawn(mask, count)
        self.expect_no_nans(nans, step)
        return masks

    def expect_no_nans(self, counts: Mapping[str, Tensor], step: int) -> None:
        """Have :attr:`checks` look at numbers of NaN scores that devices will report."""
        self.checks.expect(counts, functools.partial(self._nan_error, step))

    def _nan_error(self, step: int, name: str, count: int) -> MaskError:
        return MaskError(
            f"no mask for {name!r} at step {step}: {nan_scores(count, self.sizes[name])}"
        )

    def report(self, step: int) -> PruningReport:
        """What is left of each tensor after ``step`` steps; a collective where one is sharded."""
        return PruningReport(
            step,
            tuple(
                TensorReport(
                    name=weight.name,
                    shape=tuple(weight.parameter.shape),
                    kept=weight.kept,
                    nonzero=total(int(weight.part.count_nonzero()), weight.parameter),
                    target=weight.target,
                )
                for weight in self._weights
            ),
        )

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

    def collect_gradients(self, step: int) -> None:
        """Before the backward pass of ``step``, ask for the gradients that its update grows by."""
        for weight in self._weights:
            weight.gradient.collect(step in weight.schedule.updates)

    def put_in_force(self, masks: Mapping[str, Drawn], step: int, *, regrow: bool) -> None:
        """Put the masks of an update in force, once none of them is refused.

        Args:
            masks: by the tensor's name.
            step: the update's.
            regrow: whether what becomes masked may return at a later update.

        Raises:
            MaskError: a mask would leave nothing in a row by whose norm the model divides.
        """
        changing = [weight for weight in self._weights if weight.name in masks]
        for weight in changing:
            place = f"{weight.name!r} at step {step}"
            check_rows(weight.weight.owners, masks[weight.name].mask, place)
        for keep_aside in (False, True):
            self._exchange(
                {
                    weight: masks[weight.name]
                    for weight in changing
                    if _keeps_aside(weight.schedule, step, regrow=regrow) == keep_aside
                },
                keep_aside=keep_aside,
            )
        for weight in changing:
            if weight.schedule.restarts and weight.schedule(step) != weight.schedule(step - 1):
                weight.forget_state()

    def _exchange(self, drawn: Mapping[MaskedWeight, Drawn], *, keep_aside: bool) -> None:
        """Put masks in force where kernels do it for all tensors, then the others one by one."""
        mine = {w: each for w, each in drawn.items() if self._batches.takes(w.part.device)}
        new = {weight: weight.local(each) for weight, each in mine.items()}
        for weight in mine:
            if keep_aside:
                weight.make_room()
        changes = [weight.change_to(mask) for weight, mask in new.items()]
        done = self._batches.exchange(changes, keep_aside=keep_aside)
        moved = [weight for weight, moved in zip(mine, done, strict=True) if moved]
        for weight in moved:
            weight.mask.changed(new[weight].kept)
            weight.changed(mine[weight].kept, keep_aside=keep_aside)
        self._settle(moved)
        for weight in drawn:
            if weight not in moved:
                weight.set_mask(drawn[weight], keep_aside=keep_aside, settled=self._is_settled)

    def _settle(self, weights: Sequence[MaskedWeight]) -> None:
        """Zeros in gradients and optimizer state where the masks in force do not keep."""
        if self._is_settled:
            jobs = [job for weight in weights for job in weight.settle_jobs()]
            self._batches.zero(jobs, check=True)
        else:
            for weight in weights:
                weight.gradient.mask()
                weight.hold()
        for weight in weights:
            weight.settled()

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


def _keeps_aside(schedule: Schedule, step: int, *, regrow: bool) -> bool:
    return regrow and step != schedule.end_step and not schedule.restarts


def _written(name: str, count: int) -> StateError:
    return StateError(
        f"{count} weights of {name!r} were written where the mask holds zeros: load "
        "the pruner state that belongs to these weights too, or load them before the "
        "Pruner is made, or call pruner.apply_to(model). If an optimizer wrapper wrote "
        "them (Lookahead, an averaging one), give that to the Pruner"
    )
