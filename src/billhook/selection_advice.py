"""What in a selection looks like an oversight: for a pruner that attaches, and for ``plan``."""

import logging
from collections.abc import Iterator

from billhook.errors import ConfigurationError
from billhook.granularity import Granularity
from billhook.selection import Selection, Weight

__all__ = ["advice", "fewer_weights_than_rows", "log_selection"]

_log = logging.getLogger("billhook")
_INTENDED = ("by rule", "frozen")  # reasons to stay dense that a user gave


def log_selection(selection: Selection, granularity: Granularity, *, each_alike: bool) -> None:
    """Log what is pruned, and as warnings what of it looks like an oversight.

    Args:
        selection: the pruner's.
        granularity: the pruner's.
        each_alike: every tensor gets its own target, no allocation moves it.
    """
    _log.info("%s", str(selection))  # records may be kept: no weight in them
    for message in advice(selection, granularity, each_alike=each_alike):
        _log.warning("%s", message)


def advice(selection: Selection, granularity: Granularity, *, each_alike: bool) -> Iterator[str]:
    """The warnings of a selection."""
    pruned = sum(weight.parameter.numel() for weight, _ in selection.pruned)
    missed = [weight for weight, reason in selection.dense if reason not in _INTENDED]
    count = sum(weight.parameter.numel() for weight in missed)
    if count > pruned:
        largest = max(missed, key=lambda weight: weight.parameter.numel())
        yield (
            f"most of the parameters stay dense, {count:,} of {count + pruned:,}, such as "
            f"{largest.name!r}: name them in rules to prune them"
        )
    adapters = [weight.name for weight, _ in selection.pruned if "lora_" in weight.name]
    if adapters:
        yield (
            f"{len(adapters)} tensors of adapters are pruned, such as {adapters[0]!r}: leave them "
            'dense with rules={"*lora_*": None}'
        )
    if each_alike:
        for weight, target in selection.pruned:
            message = fewer_weights_than_rows(weight, target, granularity)
            if message is not None:
                yield message


def fewer_weights_than_rows(weight: Weight, target: float, granularity: Granularity) -> str | None:
    """What to say of a tensor that would keep fewer weights than it has rows.

    Raises:
        ConfigurationError: the granularity cannot prune the tensor so far.
    """
    numel, rows = weight.parameter.numel(), weight.pattern_shape[0]
    try:
        kept = granularity.kept(weight.pattern_shape, target)
    except ConfigurationError as error:
        raise ConfigurationError(f"{weight.name!r}: {error}") from None
    if not numel or kept >= rows:
        return None
    return (
        f"{weight.name!r} would keep {kept} of {numel} weights, fewer than its {rows} "
        "rows: some of its outputs would be cut off; give it a lower sparsity in rules"
    )
