"""Which kernel runs each layer of a program in 8 bits. No choice changes a result."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from billhook.errors import ConfigurationError
from billhook.inference.int8.ops import Conv, Linear
from billhook.inference.int8.packing import GROUPS, blocks_of

__all__ = ["KERNELS", "MAX_LINES", "Choice", "candidates", "matrix_of", "pattern_of"]

KERNELS = ("1x4", "4x4", "8x4", "16x4", "dense", "windows", "depthwise")
MAX_LINES = 8  # of 16 pixels: the widest tile
#: A kernel of larger blocks may multiply this many times the blocks of 1x4, filled up with zeros.
WORTH_TRYING = 1.7
FULL = 0.8  # share of a pattern's places that hold a nonzero, where weights rounded to zero do not


@dataclass(frozen=True)
class Choice:
    """The kernel of a layer, and the widest tile in lines of 16 pixels.

    "RxC": the blocks with a nonzero; "dense": all blocks; "windows": unstructured zeros, for
    AVX512_VBMI; "depthwise": three by three filters.
    """

    kernel: str
    lines: int = MAX_LINES

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ConfigurationError(
                f"a plan names the kernel {self.kernel!r}: known are {', '.join(KERNELS)}"
            )
        if not 1 <= self.lines <= MAX_LINES:
            raise ConfigurationError(
                f"a plan has tiles of {self.lines} lines: 1 to {MAX_LINES} are possible"
            )

    @property
    def group(self) -> int:
        """Rows that share their columns."""
        return 4 if self.kernel == "dense" else int(self.kernel.split("x")[0])


def matrix_of(op: Conv | Linear) -> NDArray[np.int8]:
    """(M, K) in the order that operands lie in: of a convolution taps, then channels by four."""
    if isinstance(op, Linear):
        return op.weight
    rows, inputs, kh, kw = op.weight.shape
    padded = -(-inputs * op.groups // 4) * 4
    full = np.zeros((rows, kh, kw, padded), np.int8)
    per_group = rows // op.groups
    for group in range(op.groups):
        own = slice(group * per_group, (group + 1) * per_group)
        taps = op.weight[own].transpose(0, 2, 3, 1)
        full[own, :, :, group * inputs : (group + 1) * inputs] = taps
    return full.reshape(rows, -1)


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
        if nonzeros >= FULL * int(blocks.any(axis=(2, 3)).sum()) * group * 4:
            return f"{group}x4"
    return "unstructured"


def candidates(matrix: NDArray[np.int8], isa: str, *, vector: bool) -> list[str]:
    """The kernels worth timing for a matrix, the most general one first."""
    counts = {
        group: int(blocks_of(matrix, group).any(axis=(2, 3)).sum()) * group for group in GROUPS
    }
    limit = WORTH_TRYING * counts[1]
    names = [f"{group}x4" for group in GROUPS if group == 1 or counts[group] <= limit]
    if not vector and -(-matrix.size // 4) <= 4 * limit:
        names.append("dense")
    nonzeros = int(np.count_nonzero(matrix))
    if isa == "avx512vbmi" and nonzeros < FULL * 4 * counts[1]:
        names.append("windows")
    return names
