"""Weights read as matrices, and matrices cut into blocks."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from billhook.errors import ConfigurationError, MaskError

__all__ = ["as_matrices", "bands", "density_for", "matrix_shape", "spread"]


def matrix_shape(shape: torch.Size, granularity: object) -> tuple[int, int, int]:
    """(rows, columns, taps) of a weight of ``shape``."""
    if len(shape) < 2:
        raise ConfigurationError(
            f"{granularity} prunes matrices and convolutions, a tensor has shape {tuple(shape)}: "
            "leave it dense with a rule {name: None}"
        )
    return shape[0], shape[1], math.prod(shape[2:])


def as_matrices(weight: Tensor) -> Tensor:
    """A view (taps, rows, columns) of a weight (rows, columns, *kernel)."""
    return weight.flatten(2).movedim(2, 0) if weight.dim() > 2 else weight.unsqueeze(0)


def bands(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, count, size) of the whole blocks along an axis, and of the smaller one behind."""
    count, rest = divmod(length, size)
    if count:
        yield 0, count, size
    if rest:
        yield count * size, 1, rest


def spread(per_block: Tensor, part: Tensor) -> Tensor:
    """A value per block, for all weights of (taps, block rows, rows, block columns, columns)."""
    return per_block.unsqueeze(2).unsqueeze(4).expand_as(part)


def density_for(sizes: list[tuple[int, int]], kept: int) -> float:
    """The share of blocks to keep of every size, so that ``kept`` weights survive in all."""

    def total(density: float) -> int:
        return sum(size * round(density * count) for size, count in sizes)

    low, high = 0.0, 1.0  # the smallest density with as many survivors: bisect to the last bit
    if total(low) >= kept:
        high = low
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if total(middle) >= kept else (middle, high)
    if total(high) != kept:
        raise MaskError(f"{kept} survivors cannot be reached with whole blocks")
    return high
