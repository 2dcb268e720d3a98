"""Statistics of batch normalisation that fit the pruned weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from billhook import torch_private
from billhook.errors import ConfigurationError

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any], device: str | None = None) -> int:
    """Measure the running means and variances of batch normalisation anew.

    Pruning changes what the layers pass on, and the running statistics still belong to the network
    before; after one-shot pruning much of the lost accuracy comes back this way. Each layer's
    statistics become the plain average over the batches. Weights and other buffers stay.

    Args:
        model: the pruned network.
        batches: what the network takes: a tensor, a tuple or list (its first element is the
            input), or a mapping (its items are keyword arguments).
        device: moves the inputs there first.

    Returns:
        The number of batches that were seen.

    Raises:
        ConfigurationError: the model has no batch normalisation with running statistics, or there
            are no batches, or something infinite or NaN reaches it. The statistics are then what
            they were.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> recalibrate(model, [torch.randn(16, 2), torch.randn(16, 2)])
    2
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, torch_private.BatchNorm)
        and module.track_running_stats
        and module.running_mean is not None
    ]
    if not norms:
        raise ConfigurationError(
            f"{type(model).__name__} has no batch normalisation with running statistics: there is "
            "nothing to recalibrate"
        )
    training = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    kept = {norm: [each.clone() for each in _statistics(norm)] for norm in norms}
    count = 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch: a cumulative average
            norm.train()
        for batch in batches:
            _run(model, batch, device)
            count += 1
        _check_finite(model, norms)
    except BaseException:
        count = 0
        raise
    finally:
        if not count:
            for norm, values in kept.items():
                for buffer, value in zip(_statistics(norm), values, strict=True):
                    buffer.copy_(value)
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode
    if not count:
        raise ConfigurationError("there are no batches: give some of the training data")
    return count


def _check_finite(model: nn.Module, norms: list[torch_private.BatchNorm]) -> None:
    names = {module: name for name, module in model.named_modules()}
    for norm in norms:
        if not all(bool(values.isfinite().all()) for values in _statistics(norm)):
            raise ConfigurationError(
                f"what reaches {names[norm] or 'the model'!r} has a NaN or infinite mean or "
                "variance: look for NaN or very large numbers in the batches and in the weights"
            )


def _statistics(norm: torch_private.BatchNorm) -> list[Tensor]:
    buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return [buffer for buffer in buffers if buffer is not None]


def _run(model: nn.Module, batch: Any, device: str | None) -> None:
    def moved(value: Any) -> Any:
        return value.to(device) if device is not None and isinstance(value, Tensor) else value

    if isinstance(batch, Mapping):
        model(**{name: moved(value) for name, value in batch.items()})
    else:
        model(moved(batch[0] if isinstance(batch, (tuple, list)) else batch))
