"""Pruning a trained model at once, without an optimizer."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from billhook.allocation import Allocation, Uniform
from billhook.attach import check_weights
from billhook.criterion import Criterion, Magnitude
from billhook.draw import MaskDrawer, needs
from billhook.errors import ConfigurationError
from billhook.granularity import Granularity, Unstructured
from billhook.masked_weight import MaskedWeight
from billhook.masked_weights import MaskedWeights
from billhook.optimizer_hooks import StepCount
from billhook.report import PruningReport
from billhook.schedule import OneShot
from billhook.selection import Rules, select_weights
from billhook.statistics import Statistics

__all__ = ["prune"]


def prune(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: Criterion = Magnitude(),
    granularity: Granularity = Unstructured(),
    allocation: Allocation = Uniform(),
    rules: Rules | None = None,
    batches: Iterable[Any] = (),
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
) -> PruningReport:
    """Write zeros into a trained model's weights, in place, without training it.

    What is selected is what a :class:`billhook.Pruner` would select, frozen weights too. To recover
    what is lost, train on with ``Hold()`` or call
    :func:`billhook.recalibrate`.

    Args:
        model: any module.
        sparsity: the share of zeros in every selected tensor, in [0, 1).
        criterion, granularity, allocation, rules: as for :class:`billhook.Pruner`.
        batches: data for criteria that look at gradients or inputs, as ``Fisher`` and ``Wanda`` do.
        loss: ``loss(model, batch)``, the scalar loss of a batch, for those that need gradients. For
            those that need inputs it only has to run the model; without it ``model(batch)`` is run,
            or ``model(*batch)`` for a tuple or list.

    Returns:
        What was pruned, tensor by tensor.

    Raises:
        ConfigurationError: as for :class:`billhook.Pruner`; or the criterion needs batches or loss.
        MaskError: scores are NaN; nothing was changed then.

    >>> model = nn.Linear(8, 4)
    >>> prune(model, 0.75).nonzero
    8
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model is a {type(model).__name__}: give a torch.nn.Module")
    schedule = OneShot(sparsity, 0 if needs(criterion) == "weight" else 1)
    statistics = Statistics(criterion)
    drawer = MaskDrawer(criterion, granularity, allocation, True, statistics)
    with _trainable(model):
        selection = select_weights(model, rules, sparsity)
        pruned = [weight for weight, _ in selection.pruned]
        check_weights(selection)
        schedules = {each.name: selection.schedule_of(each, schedule) for each in pruned}
        drawer.check({each.name: each.pattern_shape for each in pruned}, schedules)
        weights = MaskedWeights([MaskedWeight(each, schedules[each.name], ()) for each in pruned])
        grads = {parameter: parameter.grad for parameter in model.parameters()}
        try:
            if needs(criterion) != "weight":
                _observe(model, weights, statistics, (batches, loss), criterion)
            with torch.no_grad():
                masks = drawer.draw(weights, schedule.begin_step)
                weights.put_in_force(masks, schedule.begin_step, regrow=False)
            weights.checks.check(wait=True)
            return weights.report(0)
        finally:
            for parameter, grad in grads.items():
                parameter.grad = grad
            for weight in weights:
                weight.release()


def _observe(
    model: nn.Module,
    weights: Sequence[MaskedWeight],
    statistics: Statistics,
    data: tuple[Iterable[Any], Callable[[nn.Module, Any], Tensor] | None],
    criterion: Criterion,
) -> None:
    """Show the criterion gradients or inputs of batches, in evaluation mode."""
    (batches, loss), wanted = data, needs(criterion)
    if wanted == "gradient" and loss is None:
        raise ConfigurationError(
            f"{criterion} needs gradients: give loss, a function of the model and a batch, and "
            "batches"
        )
    modes = {module: module.training for module in model.modules()}
    count = 0
    handles = list(statistics.register_hooks(weights))
    try:
        model.eval()
        for batch in batches:
            count += 1
            if wanted == "gradient":
                assert loss is not None
                model.zero_grad(set_to_none=True)
                loss(model, batch).backward()
                statistics.observe(weights, StepCount())
                continue
            with torch.no_grad():
                if loss is not None:
                    loss(model, batch)
                else:
                    model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise ConfigurationError(
            f"{criterion} needs {wanted}, and batches is empty: give some of the training data"
        )


@contextlib.contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """With every parameter taken for a trainable one."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
