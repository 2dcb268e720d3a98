"""Which kernel runs each layer of a program in 8 bits. No choice changes a result."""

import math

import numpy as np
from numpy.typing import NDArray

from billhook.inference.int8.ops import Conv, Linear
from billhook.inference.int8.packing import GROUPS, as_matrix
from billhook.inference.plan import Choice

__all__ = [
    "MAX_QUADS",
    "candidates",
    "group_of",
    "lines_of",
    "matrix_of",
    "pattern_of",
    "quads_of",
]

MAX_QUADS = 2**16  # of a matrix: columns of blocks have 16 bits
#: A kernel of larger blocks may multiply this many times the blocks of 1x4, filled up with zeros.
WORTH_TRYING = 1.7
FULL = 0.8  # share of a pattern's places that hold a nonzero, where weights rounded to zero do not


def lines_of(choice: Choice) -> int:
    """The widest tile in lines of 16 pixels.

    >>> lines_of(Choice("1x4", 16)), lines_of(Choice("1x4", 1))
    (8, 1)
    """
    lines: int = (choice.vectors + 1) // 2
    return lines


def group_of(choice: Choice) -> int:
    """Rows that share their columns; unstructured zeros run as 1x4 where there is no VBMI."""
    kernel: str = choice.kernel
    return {"all_blocks": 4, "windows": 1}.get(kernel) or int(kernel.split("x", maxsplit=1)[0])


def quads_of(op: Conv | Linear) -> int:
    """Groups of four columns of the matrix that runs a layer."""
    inputs = int(op.weight.shape[1])
    if isinstance(op, Linear):
        return -(-inputs // 4)
    return -(-inputs * op.groups // 4) * math.prod(op.weight.shape[2:])


def matrix_of(op: Conv | Linear) -> NDArray[np.int8]:
    """(M, K) as the kernels multiply it."""
    return op.weight if isinstance(op, Linear) else as_matrix(op.weight, op.groups)


def blocks_of(value: NDArray[np.int8], group: int) -> NDArray[np.int8]:
    """(groups, quads, group, 4): the matrix in blocks, filled up with zeros."""
    rows, columns = value.shape
    full = np.zeros((-(-rows // group) * group, -(-columns // 4) * 4), np.int8)
    full[:rows, :columns] = value
    return full.reshape(-1, group, full.shape[1] // 4, 4).transpose(0, 2, 1, 3)


def pattern_of(matrix: NDArray[np.int8]) -> str:
    """What the zeros look like: "dense", the largest "Rx4" whose blocks are nearly full, or
    "unstructured".

    >>> pattern_of(np.kron(np.eye(16, dtype=np.int8), np.ones((8, 4), np.int8)))
    '8x4'
    >>> pattern_of(np.eye(64, dtype=np.int8))
    'unstructured'
    """
    nonzeros = int(np.count_nonzero(matrix))
    if nonzeros >= FULL * matrix.size or nonzeros == 0:
        return "dense"
    for group in reversed(GROUPS):
        blocks = blocks_of(matrix, group)
        if nonzeros >= FULL * int(np.count_nonzero(blocks.any(axis=(2, 3)))) * group * 4:
            return f"{group}x4"
    return "unstructured"


def candidates(matrix: NDArray[np.int8], isa: str, *, vector: bool) -> list[str]:
    """The kernels worth timing for a matrix, the most general one first."""
    counts = {
        group: int(np.count_nonzero(blocks_of(matrix, group).any(axis=(2, 3)))) * group
        for group in GROUPS
    }
    limit = WORTH_TRYING * counts[1]
    names = [f"{group}x4" for group in GROUPS if group == 1 or counts[group] <= limit]
    if not vector and -(-matrix.size // 4) <= 4 * limit:
        names.append("all_blocks")
    nonzeros = int(np.count_nonzero(matrix))
    if isa == "avx512vbmi" and nonzeros < FULL * 4 * counts[1]:
        names.append("windows")
    return names
