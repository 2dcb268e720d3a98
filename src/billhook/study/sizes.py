"""Bytes of a network's file at a sparsity, and the sparsity for a number of bytes.

Where tensors are coded dense or by bit-mask, bytes depend on shapes and numbers of nonzeros alone:
they are known, to the byte, before anything is trained.
"""

import dataclasses
from collections.abc import Mapping

import torch

import billhook
from billhook.errors import ConfigurationError
from billhook.footprint import Footprint, TensorSpec
from billhook.study.family import family

__all__ = [
    "CODINGS",
    "ByteSplit",
    "Shapes",
    "byte_split",
    "file_bytes",
    "shapes_of",
    "sparsity_for",
]

#: The codings whose bytes count: each tensor takes the smaller one.
CODINGS = ("dense", "bitmask")

Shapes = Mapping[str, torch.Size]


@dataclasses.dataclass(frozen=True)
class ByteSplit:
    """Where the bytes of a file go; ``total`` is their sum."""

    header: int
    masks: int
    values: int

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.header + self.masks + self.values


def shapes_of(family_name: str, width: int) -> Shapes:
    """Name and shape of every tensor in the network of that width."""
    with torch.device("meta"):
        model = family(family_name).build(width)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def file_bytes(shapes: Shapes, sparsity: float) -> int:
    """Bytes of the file when every weight matrix has ``sparsity``; vectors stay dense."""
    return _footprint(shapes, sparsity).file_bytes(CODINGS)


def byte_split(shapes: Shapes, sparsity: float) -> ByteSplit:
    """:func:`file_bytes` by what they hold."""
    footprint = _footprint(shapes, sparsity)
    entries = footprint.tensor_bytes(CODINGS)
    dense = footprint.tensor_bytes("dense")
    values = sum(
        entry if entry == dense[name] else 4 * _nonzeros(shapes[name], sparsity)
        for name, entry in entries.items()
    )
    total = footprint.file_bytes(CODINGS)
    return ByteSplit(total - sum(entries.values()), sum(entries.values()) - values, values)


def sparsity_for(shapes: Shapes, target: int) -> float:
    """The lowest sparsity at which the file has no more than ``target`` bytes.

    Bytes never rise with sparsity, so bisect on the number of weights kept, whole numbers: the
    file ends up within a few bytes of the target (one weight more in each matrix at most).

    Raises:
        ConfigurationError: masks, vectors and header alone are larger, or the file is no larger
            without any zeros.
    """
    weights = sum(shape.numel() for shape in shapes.values() if len(shape) > 1)

    def bytes_with(kept: int) -> int:
        return file_bytes(shapes, 1.0 - kept / weights)

    if bytes_with(1) > target:
        raise ConfigurationError(
            f"no sparsity makes the large network's file as small as {target:,} bytes: its masks, "
            f"biases and header alone take {bytes_with(1):,}; leave out the small width that has "
            "this size, or make large_width smaller"
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


def _footprint(shapes: Shapes, sparsity: float) -> Footprint:
    return billhook.expected_footprint(
        TensorSpec(name, tuple(shape), _nonzeros(shape, sparsity)) for name, shape in shapes.items()
    )


def _nonzeros(shape: torch.Size, sparsity: float) -> int:
    numel = shape.numel()
    return round((1.0 - sparsity) * numel) if len(shape) > 1 else numel
