"""Limits of a program's file: memory and work in proportion to its size.

A file of a kilobyte may describe a network that needs terabytes, or hours. It may take
``FLOATS_PER_BYTE`` floats for every byte of the file and of one sample of its input, which is what
a coded tensor may expand to as well; what opening it takes is paid for by the file alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from billhook.inference.graph import Layer, Op
from billhook.inference.graph.ops import Shape
from billhook.inference.graph.planes import PlaneLayout

__all__ = ["FLOATS_PER_BYTE", "Limits", "opening_floats", "weight_floats"]

FLOATS_PER_BYTE = 4096  # 16,384 bytes: see "What load guarantees" in docs/storage.md
WORK_PER_BYTE = 2**16  # floats read
_COLUMN_FLOATS = 6  # an offset, and what it is computed from in 64 bits
LEAST_FLOATS = 2**24  # that any file may take when it is opened: 64 MiB


@dataclass(frozen=True)
class Limits:
    """How many floats a program may take: its workspace, and what is made when it is opened."""

    workspace: int
    opening: int
    work: int
    file_bytes: int = 0

    @classmethod
    def of(cls, file_bytes: int, sample_bytes: int) -> "Limits":
        """The limits of a file whose program takes samples of so many bytes."""
        both = file_bytes + sample_bytes
        opening = max(LEAST_FLOATS, FLOATS_PER_BYTE * file_bytes)
        return cls(FLOATS_PER_BYTE * both, opening, WORK_PER_BYTE * both, file_bytes)

    def for_sample(self, sample_bytes: int) -> "Limits":
        """The limits for samples of another size."""
        return Limits.of(self.file_bytes, sample_bytes)

    def check(self, what: str, floats: int, limit: int) -> None:
        """Raises ValueError if ``floats`` is above ``limit``."""
        if floats > limit:
            raise ValueError(
                f"{what} takes {floats} floats, and the sizes of the file and of its input allow "
                f"{limit}: the file may be hostile"
            )


def weight_floats(shapes: Sequence[tuple[Shape, bool]]) -> int:
    """Floats of the weights of a program: all of a dense one, the rows of a sparse one (its
    nonzeros are in the file one by one).

    >>> weight_floats([((8, 3, 3, 3), True), ((10, 8), False)])
    227
    """
    return sum(math.prod(shape) if dense else shape[0] + 1 for shape, dense in shapes)


def opening_floats(ops: Sequence[Op], layouts: set[PlaneLayout]) -> int:
    """Floats of what is made of a program's shapes when it is opened: the masks of its planes, and
    where the columns of its convolutions lie."""
    columns = sum(math.prod(op.weight.shape[1:]) for op in ops if isinstance(op, Layer))
    return _COLUMN_FLOATS * columns + sum(layout.pixels_rounded for layout in layouts)
