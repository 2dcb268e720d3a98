"""What the kernels read, made slowly and simply from a dense matrix."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["block", "lanes", "offsets", "shares"]

Matrix = NDArray[np.float32]
Packed = tuple[list[int], list[int], list[float], list[int]]
LANES, CHUNK = 8, 128


def shares(matrix: Matrix) -> bool:
    """Whether each eight rows have nonzeros in the same columns."""
    found = [tuple(np.flatnonzero(row)) for row in matrix]
    groups = [found[r : r + LANES] for r in range(0, len(found), LANES)]
    return bool(matrix.any()) and all(len(g) == LANES and len(set(g)) == 1 for g in groups)


def lanes(matrix: Matrix) -> Packed:
    """group_ptr, columns, values and rows of :class:`LaneRows`."""
    found = [np.flatnonzero(row) for row in matrix]
    shared = shares(matrix)
    rows = sorted(range(len(matrix)), key=lambda r: 0 if shared else -len(found[r]))
    rows += [-1] * (-len(rows) % LANES)
    group_ptr, column, value = [0], [], []
    for g in range(0, len(rows), LANES):
        group = rows[g : g + LANES]
        steps = max(len(found[r]) for r in group if r >= 0)
        for step in range(steps):
            places = [found[r][step] if r >= 0 and step < len(found[r]) else -1 for r in group]
            column += [matrix.shape[1] if at < 0 else int(at) for at in places][
                : 1 if shared else 8
            ]
            pairs = zip(group, places, strict=True)
            value += [0.0 if at < 0 else float(matrix[r, at]) for r, at in pairs]
        group_ptr.append(group_ptr[-1] + steps)
    return group_ptr, column, value, rows


def block(matrix: Matrix, first: int, last: int, shared: bool) -> Packed:
    """row_ptr, columns, values and rows of the :class:`SparseRows` of a block of columns."""
    found = [first + np.flatnonzero(row[first:last]) for row in matrix]
    rows: list[int] = []
    for start in range(0, len(matrix), CHUNK):
        chunk = range(start, min(start + CHUNK, len(matrix)))
        rows += chunk if shared else sorted(chunk, key=lambda r: -len(found[r]))
    group = LANES if shared else 1
    row_ptr, column, value = [0], [], []
    for r in range(0, len(rows), group):
        places = found[rows[r]]
        column += [int(at) - first for at in places]
        value += [float(matrix[row, at]) for at in places for row in rows[r : r + group]]
        row_ptr.append(row_ptr[-1] + len(places))
    return row_ptr, column, value, rows


def offsets(
    shape: tuple[int, ...],
    sides: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    plane: int,
    pitch: int,
) -> list[int]:
    """Where each column of a filter finds its operand; ``sides`` is stride, dilation, padding."""
    (sh, sw), (dh, dw), (top, left) = sides
    result = []
    for channel in range(shape[1]):
        for ky in range(shape[2]):
            for kx in range(shape[3]):
                y, x = ky * dh - top, kx * dw - left
                phase = (channel * sh + y % sh) * sw + x % sw
                result.append(phase * plane + y // sh * pitch + x // sw)
    return result
