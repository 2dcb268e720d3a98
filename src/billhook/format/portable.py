"""The codings' inner loops in numpy: what runs where no native kernels were built.

Every function has a twin of the same name and the same results in ``kernels.py``; the C++ sources
in ``csrc/`` say what each does. A decoder raises FormatError on an index that does not fit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from billhook.errors import FormatError
from billhook.format.dtypes import Elements

__all__ = [
    "Shares",
    "bitmask_decode",
    "bitmask_encode",
    "rans_decode",
    "rans_encode",
    "relative_index_decode",
    "relative_index_encode",
    "relative_index_padding",
]

Bytes = NDArray[np.uint8]
PRECISION = 14
LOWEST = 1 << 16


def bitmask_encode(elements: Elements, nnz: int) -> tuple[Bytes, Elements]:
    """Packed mask and nonzero values of flat ``elements``."""
    mask = elements != 0
    values = elements[mask]
    assert values.size == nnz
    return np.packbits(mask, bitorder="little"), values


def bitmask_decode(mask: Bytes, values: Elements, numel: int) -> Elements:
    """The flat elements again; the mask's bits must be as many as the values."""
    bits = np.unpackbits(mask, bitorder="little").view(np.bool_)
    if bits[numel:].any() or np.count_nonzero(bits) != values.size:
        raise FormatError(mask_error(mask, values.size, numel))
    elements = np.zeros(numel, dtype=values.dtype)
    elements[bits[:numel]] = values
    return elements


def mask_error(mask: Bytes, stored: int, numel: int) -> str:
    """Why this mask cannot place ``stored`` values among ``numel`` elements."""
    bits = np.unpackbits(mask, bitorder="little")
    if bits[numel:].any():
        return f"the mask has bits set beyond its {numel} elements"
    return f"the mask has {np.count_nonzero(bits)} bits set for {stored} stored values"


def relative_index_padding(elements: Elements) -> NDArray[np.int64]:
    """The padding zeros that flat ``elements`` need with gaps of k bits, for k in 0..8.

    >>> relative_index_padding(np.array([1, 0, 0, 0, 0, 1], dtype="<u4"))
    array([4, 2, 1, 0, 0, 0, 0, 0, 0])
    """
    gaps = np.diff(np.flatnonzero(elements), prepend=-1, append=elements.size) - 1
    return np.array([(gaps >> bits).sum() for bits in range(9)], dtype=np.int64)


def relative_index_encode(elements: Elements, bits: int, stored: int) -> tuple[Bytes, Elements]:
    """Packed gaps and the values, padding zeros included."""
    positions = np.flatnonzero(elements)
    gaps = np.diff(positions, prepend=-1) - 1
    last = np.cumsum((gaps >> bits) + 1) - 1  # where each nonzero comes after its padding
    all_gaps = np.full(stored, (1 << bits) - 1, dtype=np.uint8)
    all_gaps[last] = gaps & ((1 << bits) - 1)
    values = np.zeros(stored, dtype=elements.dtype)
    values[last] = elements[positions]
    return pack(all_gaps, bits), values


def relative_index_decode(index: Bytes, bits: int, values: Elements, numel: int) -> Elements:
    """The flat elements again; the gaps must lead to less than one full gap before the end."""
    positions = np.cumsum(unpack(index, bits, values.size).astype(np.int64) + 1) - 1
    end = int(positions[-1]) + 1 if positions.size else 0
    check_end(end if end <= numel else -1, bits, numel)
    elements = np.zeros(numel, dtype=values.dtype)
    elements[positions] = values
    return elements


def check_end(end: int, bits: int, numel: int) -> None:
    """``end`` is the element after the last one placed, -1 beyond the last element."""
    if end < 0:
        raise FormatError(f"the gaps lead beyond the {numel} elements of the tensor")
    if numel - end >= 1 << bits:
        raise FormatError(f"the gaps end at element {end} of {numel}: values are missing")


def pack(numbers: Bytes, bits: int) -> Bytes:
    """Numbers below ``2**bits`` packed without gaps, lowest bit first.

    >>> pack(np.array([1, 2, 3], dtype=np.uint8), 4)
    array([33,  3], dtype=uint8)
    """
    columns = np.unpackbits(numbers[:, None], axis=1, bitorder="little")[:, :bits]
    return np.packbits(columns, bitorder="little")


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """The ``count`` numbers that ``pack`` packed.

    >>> unpack(np.array([33, 3], dtype=np.uint8), 4, 3)
    array([1, 2, 3], dtype=uint8)
    """
    columns = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    if not bits:
        return np.zeros(count, dtype=np.uint8)
    return np.packbits(columns, axis=1, bitorder="little").reshape(count)


@dataclass(frozen=True)
class Shares:
    """How likely each bit of a mask is: of 2**14 cases bit ``(i, j, inner)`` is 1 in
    ``table[rows[i] + columns[j]]``; ``table`` has an entry for every sum."""

    rows: Bytes
    columns: Bytes
    inner: int
    table: NDArray[np.uint16]

    @property
    def numel(self) -> int:
        """Bits of the mask."""
        return self.rows.size * self.columns.size * self.inner


def _steps(shares: Shares, lanes: int) -> NDArray[np.uint64]:
    """The probability of every element, padded to whole steps: ``[step, lane]``."""
    classes = shares.rows[:, None].astype(np.int64) + shares.columns[None, :]
    probability = np.repeat(shares.table[classes].reshape(-1), shares.inner).astype(np.uint64)
    return np.append(probability, np.zeros(-probability.size % lanes, np.uint64)).reshape(-1, lanes)


def rans_decode(stream: Bytes, lanes: int, shares: Shares) -> tuple[Bytes, int]:
    """The packed mask and the bytes of ``stream`` used; all lanes advance together."""
    numel = shares.numel
    if stream.size < 4 * lanes:
        raise FormatError(rans_error(-1))
    states = stream[: 4 * lanes].view("<u4").astype(np.uint64)
    if (states < LOWEST).any():
        raise FormatError(rans_error(-2))
    rest = stream[4 * lanes :]
    words = rest[: rest.size // 2 * 2].view("<u2").astype(np.uint64)
    probabilities = _steps(shares, lanes)
    bits = np.zeros(probabilities.shape, dtype=np.bool_)
    one = np.uint64(1 << PRECISION)
    used = 0
    for step, probability in enumerate(probabilities):
        active = min(lanes, numel - step * lanes)
        state, share = states[:active], probability[:active]
        slot, high = state & (one - np.uint64(1)), state >> np.uint64(PRECISION)
        bit = slot < share
        state = np.where(bit, share * high + slot, (one - share) * high + slot - share)
        short = np.flatnonzero(state < LOWEST)
        if used + short.size > words.size:
            raise FormatError(rans_error(-1))
        state[short] = state[short] << np.uint64(16) | words[used : used + short.size]
        used += short.size
        states[:active] = state
        bits[step, :active] = bit
    if (states != LOWEST).any():
        raise FormatError(rans_error(-2))
    return np.packbits(bits.reshape(-1)[:numel], bitorder="little"), 4 * lanes + 2 * used


def rans_encode(mask: Bytes, lanes: int, shares: Shares) -> Bytes:
    """The stream: the lanes' states, then the words."""
    numel = shares.numel
    probabilities = _steps(shares, lanes)
    bits = np.zeros(probabilities.size, dtype=np.bool_)
    bits[:numel] = np.unpackbits(mask, count=numel, bitorder="little")
    states = np.full(lanes, LOWEST, dtype=np.uint64)
    words: list[NDArray[np.uint64]] = []
    one, low = np.uint64(1 << PRECISION), np.uint64(0xFFFF)
    for step in range(len(probabilities) - 1, -1, -1):
        active = min(lanes, numel - step * lanes)
        state, bit = states[:active].copy(), bits[step * lanes : step * lanes + active]
        share = np.where(bit, probabilities[step, :active], one - probabilities[step, :active])
        full = np.flatnonzero(state >= share << np.uint64(32 - PRECISION))
        words.append(state[full] & low)
        state[full] >>= np.uint64(16)
        start = np.where(bit, np.uint64(0), one - share)
        states[:active] = (state // share << np.uint64(PRECISION)) + state % share + start
    stream = np.concatenate(words[::-1]) if words else np.empty(0, dtype=np.uint64)
    return np.concatenate(
        [states.astype("<u4").view(np.uint8), stream.astype("<u2").view(np.uint8)]
    )


def rans_error(status: int) -> str:
    """What a negative status of the decoder means."""
    if status == -1:
        return "the entropy-coded mask is cut off"
    return "the entropy-coded mask does not end in the state where its encoder began"
