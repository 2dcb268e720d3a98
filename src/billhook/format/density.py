"""A model of where a mask is dense, for the entropy coder: log-odds of row plus log-odds of column.

Trained masks are denser in some rows (output units) and columns (input units) than in others. The
log2-odds that element (i, j, inner) is stored are, in eighths,
``base + row_step * rows[i] + column_step * columns[j]``, with classes of a few bits per row and per
column. An axis whose classes would cost more than they save has 0 bits, so that a random mask pays
for neither.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from billhook.errors import FormatError
from billhook.format.portable import PRECISION, Bytes, Shares, pack, unpack

__all__ = ["Axis", "DensityModel", "fit", "geometry", "parse"]

_EIGHTHS = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)  # 2**16 * 2**(f/8)
_LIMIT = 8 * 15
_STEPS = (1, 2, 4, 8)
_MAX_BITS = 5
_HEADER = 6


def geometry(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(rows, columns, inner)`` of a tensor: its first two dimensions and the product of the rest;
    a tensor of fewer than two dimensions, or of no elements, is one row and one column.

    >>> geometry((64, 32, 3, 3)), geometry((10,)), geometry(())
    ((64, 32, 9), (1, 1, 10), (1, 1, 1))
    """
    if len(shape) < 2 or 0 in shape:
        return 1, 1, math.prod(shape)
    return shape[0], shape[1], math.prod(shape[2:])


def probability(log_odds: int) -> int:
    """2**14 times the probability at ``log_odds`` eighths of a bit, in integers, never 0 or 1.

    >>> [probability(e) for e in (-8, 0, 8, 1000)]
    [5461, 8192, 10922, 16383]
    """
    log_odds = max(-_LIMIT, min(_LIMIT, log_odds))
    whole, eighth = divmod(log_odds, 8)
    odds = _EIGHTHS[eighth] << max(whole, 0)
    against = 65536 << max(-whole, 0)
    share = (odds << PRECISION) // (odds + against)
    return max(1, min((1 << PRECISION) - 1, share))


_SHARES = np.array([probability(e) for e in range(-_LIMIT, _LIMIT + 1)], dtype=np.uint16)


@dataclass(frozen=True)
class Axis:
    """One class of ``bits`` bits for every row (or column), ``step`` eighths of log2-odds apart."""

    classes: Bytes
    bits: int = 0
    step: int = 1

    @property
    def offsets(self) -> Bytes:
        """``step * classes``, in eighths."""
        return np.ascontiguousarray(self.classes * np.uint8(self.step))


@dataclass(frozen=True)
class DensityModel:
    """``base`` in eighths of log2-odds, and the two axes."""

    base: int
    rows: Axis
    columns: Axis

    @property
    def table(self) -> NDArray[np.uint16]:
        """The probability, times 2**14, at every sum of a row's and a column's offset."""
        top = sum(((1 << axis.bits) - 1) * axis.step for axis in (self.rows, self.columns))
        log_odds = np.arange(self.base, self.base + top + 1)
        return _SHARES[np.clip(log_odds, -_LIMIT, _LIMIT) + _LIMIT]

    def shares(self, shape: tuple[int, ...]) -> Shares:
        """What the coder needs for a mask of a tensor of ``shape``."""
        inner = geometry(shape)[2]
        return Shares(self.rows.offsets, self.columns.offsets, inner, self.table)

    def to_bytes(self, lanes: int) -> Bytes:
        """Its bytes at the start of an index."""
        head = [lanes.bit_length() - 1, self.rows.bits, self.rows.step]
        head += [self.columns.bits, self.columns.step, self.base + _LIMIT]
        packed = [pack(axis.classes, axis.bits) for axis in (self.rows, self.columns)]
        return np.concatenate([np.array(head, dtype=np.uint8), *packed])


def parse(index: Bytes, shape: tuple[int, ...]) -> tuple[DensityModel, int, Bytes]:
    """Model, lanes and the rest of an untrusted index."""
    if index.size < _HEADER:
        raise FormatError(f"{index.size} bytes are too few for an entropy-coded mask")
    log_lanes, row_bits, row_step, column_bits, column_step, base = map(int, index[:_HEADER])
    if (
        log_lanes > 8
        or max(row_bits, column_bits) > _MAX_BITS
        or row_step not in _STEPS
        or column_step not in _STEPS
        or base > 2 * _LIMIT
    ):
        raise FormatError(f"the header {bytes(index[:_HEADER]).hex()} of the mask is not valid")
    rows, columns, _ = geometry(shape)
    rest = index[_HEADER:]
    axes = []
    for count, bits, step in ((rows, row_bits, row_step), (columns, column_bits, column_step)):
        size = (count * bits + 7) // 8
        if rest.size < size:
            raise FormatError(f"the mask's {count} classes of {bits} bits are cut off")
        axes.append(Axis(unpack(rest[:size], bits, count), bits, step))
        rest = rest[size:]
    return DensityModel(base - _LIMIT, *axes), 1 << log_lanes, rest


def fit(mask: NDArray[np.bool_]) -> DensityModel:
    """The model with which ``mask[row, column, inner]`` and the model itself take fewest bits."""
    rows, columns, inner = mask.shape
    by_row = np.count_nonzero(mask, axis=(1, 2))
    total, size = int(by_row.sum()), mask.size
    no_rows, no_columns = (Axis(np.zeros(n, dtype=np.uint8)) for n in (rows, columns))
    base = float(_log_odds(np.array(total), size))
    flat = _clamped(base, no_rows, no_columns)
    if rows < 2 or columns < 2 or total in (0, size):
        return flat
    by_column = np.count_nonzero(mask, axis=(0, 2))
    row_cost, row_base, row_axis = _fit_axis(by_row, columns * inner)
    column_cost, column_base, column_axis = _fit_axis(by_column, rows * inner)
    costs = [
        (_bits(np.array(total), np.array(size - total), flat.table[:1]), flat),
        (row_cost, _clamped(row_base, row_axis, no_columns)),
        (column_cost, _clamped(column_base, no_rows, column_axis)),
    ]
    if min(row_cost, column_cost) < costs[0][0]:
        both = _clamped(row_base + column_base - base, row_axis, column_axis)
        costs.append((_cost_of_both(both, mask), both))
    return min(costs, key=lambda pair: pair[0])[1]


def _clamped(base: float, rows: Axis, columns: Axis) -> DensityModel:
    return DensityModel(max(-_LIMIT, min(_LIMIT, round(base))), rows, columns)


def _log_odds(ones: NDArray[np.int64], of: int) -> NDArray[np.float64]:
    return np.asarray(8 * np.log2((ones + 0.5) / (of - ones + 0.5)))


def _fit_axis(ones: NDArray[np.int64], of: int) -> tuple[float, float, Axis]:
    """Bits, base and classes with which this axis alone describes its counts in fewest bits."""
    log_odds = _log_odds(ones, of)
    centre = float(np.average(log_odds, weights=ones + 1))
    choices = []
    for bits in range(1, _MAX_BITS + 1):
        for step in _STEPS:
            base = centre - step * ((1 << bits) - 1) / 2
            classes = np.clip(np.rint((log_odds - base) / step), 0, (1 << bits) - 1)
            axis = Axis(classes.astype(np.uint8), bits, step)
            table = _clamped(base, axis, Axis(np.zeros(1, np.uint8))).table
            cost = bits * ones.size + _bits(ones, of - ones, table[axis.offsets])
            choices.append((cost, base, axis))
    return min(choices, key=lambda choice: choice[0])


def _bits(ones: NDArray[np.int64], zeros: NDArray[np.int64], shares: NDArray[np.uint16]) -> float:
    p = shares / (1 << PRECISION)
    return -float((ones * np.log2(p) + zeros * np.log2(1 - p)).sum())


def _cost_of_both(model: DensityModel, mask: NDArray[np.bool_]) -> float:
    """Bits of the classes and of the mask under them, counted by pairs of classes."""
    rows, columns, inner = model.rows, model.columns, mask.shape[2]
    by_column = np.zeros((1 << rows.bits, columns.classes.size), dtype=np.int64)
    for k in np.unique(rows.classes):
        by_column[k] = np.count_nonzero(mask[rows.classes == k], axis=(0, 2))
    ones = np.zeros((1 << rows.bits, 1 << columns.bits), dtype=np.int64)
    for k in np.unique(columns.classes):
        ones[:, k] = by_column[:, columns.classes == k].sum(axis=1)
    cells = np.outer(
        np.bincount(rows.classes, minlength=1 << rows.bits),
        np.bincount(columns.classes, minlength=1 << columns.bits),
    )
    offsets = np.add.outer(
        np.arange(1 << rows.bits) * rows.step, np.arange(1 << columns.bits) * columns.step
    )
    side = rows.bits * rows.classes.size + columns.bits * columns.classes.size
    return side + _bits(ones, cells * inner - ones, model.table[offsets])
