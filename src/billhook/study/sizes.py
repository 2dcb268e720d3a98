"""Bytes of a network's file at a sparsity, the sparsity for a number of bytes, and the width.

Where tensors are coded dense or by bit-mask, bytes depend on shapes and numbers of nonzeros alone:
they are known, to the byte, before anything is trained. What the other codings need depends on
where the nonzeros are: bytes are then those of masks drawn at random, which trained ones hardly
exceed and mostly fall short of, since rows and columns of unequal density cost less. Everything in
the file counts: header, norms and their statistics, biases; what the network's ``prune_rules``
leave dense stays dense.
"""

from collections.abc import Callable, Sequence

from torch import nn

import billhook
from billhook.errors import ConfigurationError
from billhook.footprint import file_specs
from billhook.granularity import Granularity, Unstructured

__all__ = ["EXACT", "encoding_of", "file_bytes", "nonzeros", "sparsity_for", "width_for"]


#: The codings whose bytes follow from shapes and numbers of nonzeros.
EXACT = frozenset({"dense", "bitmask"})


def encoding_of(codings: Sequence[str]) -> str | tuple[str, ...]:
    """A study's codings as :func:`billhook.save` takes them.

    >>> encoding_of(("auto",)), encoding_of(("dense", "bitmask"))
    ('auto', ('dense', 'bitmask'))
    """
    return "auto" if "auto" in codings else tuple(codings)


def file_bytes(
    model: nn.Module,
    sparsity: float,
    codings: Sequence[str],
    granularity: Granularity = Unstructured(),
) -> int:
    """Bytes of the file when every prunable weight of ``model`` has ``sparsity``."""
    specs, _ = file_specs(model, sparsity, granularity)
    return billhook.expected_footprint(specs).file_bytes(encoding_of(codings))


def nonzeros(
    model: nn.Module, sparsity: float, granularity: Granularity = Unstructured()
) -> dict[str, int]:
    """How many elements of every parameter are left; one number for tied ones."""
    parameters = {name for name, _ in model.named_parameters()}
    specs, _ = file_specs(model, sparsity, granularity)
    return {s.name: s.nnz for s in specs if s.name in parameters and not s.tied_to}


def sparsity_for(model: nn.Module, target: int, codings: Sequence[str]) -> float:
    """The lowest sparsity at which the file has no more than ``target`` bytes.

    Bytes never rise with sparsity, so bisect on the number of weights kept, whole numbers: the
    file ends up within a few bytes of the target (one weight more in each tensor at most).

    Raises:
        ConfigurationError: masks, vectors and header alone are larger, or the file is no larger
            without any zeros.
    """
    weights = file_specs(model, 0.5)[1]

    def bytes_with(kept: int) -> int:
        return file_bytes(model, 1.0 - kept / weights, codings)

    if bytes_with(1) > target:
        raise ConfigurationError(
            f"no sparsity makes the large network's file as small as {target:,} bytes: what is not "
            f"pruned, masks and header alone take {bytes_with(1):,}; leave out this size, or make "
            "large_width smaller"
        )
    if bytes_with(weights) <= target:
        raise ConfigurationError(
            f"the large network's file has {bytes_with(weights):,} bytes without any pruning, no "
            f"more than the {target:,} to match: make large_width larger"
        )
    low, high = 1, weights  # bytes_with(low) <= target < bytes_with(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_with(middle) <= target else (low, middle)
    return 1.0 - low / weights


def width_for(bytes_of: Callable[[float], int], target: int, step: float, large: float) -> float:
    """The width, a multiple of ``step`` below ``large``, whose dense file is nearest to ``target``.

    Raises:
        ConfigurationError: the file of the least width is larger by half and more, or the one of
            the largest smaller.
    """

    def at(count: int) -> int:
        return bytes_of(_width(count, step))

    low, high = 1, round(large / step) - 1
    if at(low) > 1.5 * target or at(high) < target:
        raise ConfigurationError(
            f"no dense width below {large:g} has a file of {target:,} bytes: they go from "
            f"{at(low):,} to {at(high):,}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) <= target else (low, middle)
    return _width(min((low, high), key=lambda count: abs(at(count) - target)), step)


def _width(count: int, step: float) -> float:
    return round(count * step, 6)
