# mypy: ignore-errors
"""Masks on GPUs: each kernel does one thing to all tensors of a device in one launch.

A kernel walks a table of pieces: piece p belongs to tensor ``slot[p]`` and begins at its element
``start[p]``, a multiple of :data:`PIECE`. Addresses come in tables too, as whole numbers that are
cast to pointers, and so do masks: the packed bits of :class:`billhook.mask.Mask`, read as int32
words. Elements are numbered in row-major order; where a tensor lies channels-last (``STRIDED``),
``layout`` has its numbers of channels and of places.

Weights are ranked by the fp32 bits of their magnitude plus one, whole numbers whose order is the
magnitudes'; a masked weight that does not return has 0. Nothing compares floats, and what programs
add up is whole numbers, so every run and every device gives the same masks.
"""

import triton
import triton.language as tl

__all__ = ["BINS", "BLOCK", "DIGITS", "PIECE"]

BLOCK = 1024  #: elements handled at a time
PIECE = 8 * BLOCK  #: elements of one program
#: Of a histogram. A warp counts 32 keys by ballots, one for each bit and 1/32 of the bins: with
#: more than 256 that takes longer than to read the keys.
BINS = 256
#: (shift, width) of the digits of a 31-bit key, from the highest.
DIGITS = ((23, 8), (15, 8), (7, 8), (0, 7))

FLOAT32 = tl.constexpr(0)
BFLOAT16 = tl.constexpr(1)
FLOAT16 = tl.constexpr(2)
FLOAT64 = tl.constexpr(3)
_NAN = tl.constexpr(0x7F800001)  # where the bits of NaNs begin


@triton.jit
def _place(offsets, layout, s, STRIDED: tl.constexpr):
    """Where in memory the elements ``offsets`` are."""
    if STRIDED:
        channels = tl.load(layout + 2 * s).to(tl.int32)
        places = tl.load(layout + 2 * s + 1).to(tl.int32)
        within = offsets % (channels * places)
        offsets = offsets - within + (within % places) * channels + within // places
    return offsets


@triton.jit
def _kept(words, offsets, inside):
    """Whether the mask keeps the elements ``offsets``; True beyond the last one."""
    word = tl.load(words + (offsets >> 5), mask=inside, other=-1)
    return ((word >> (offsets & 31).to(tl.int32)) & 1) != 0


@triton.jit
def _magnitude(address, places, here, KIND: tl.constexpr):
    """One more than the fp32 bits of |x|; NaNs have the largest."""
    if KIND == FLOAT32:
        bits = tl.load(address.to(tl.pointer_type(tl.int32)) + places, mask=here, other=0)
    elif KIND == BFLOAT16:
        half = tl.load(address.to(tl.pointer_type(tl.int16)) + places, mask=here, other=0)
        bits = half.to(tl.int32) << 16
    elif KIND == FLOAT16:
        half = tl.load(address.to(tl.pointer_type(tl.float16)) + places, mask=here, other=0)
        bits = half.to(tl.float32).to(tl.int32, bitcast=True)
    else:
        wide = tl.load(address.to(tl.pointer_type(tl.float64)) + places, mask=here, other=0)
        bits = wide.to(tl.float32).to(tl.int32, bitcast=True)
    return tl.minimum(bits & 0x7FFFFFFF, _NAN) + 1


@triton.jit
def _keys(weight, aside, words, offsets, places, inside, KIND: tl.constexpr):
    kept = _kept(words, offsets, inside)
    key = tl.where(kept, _magnitude(weight, places, inside & kept, KIND), 0)
    if aside != 0:
        key = tl.where(kept, key, _magnitude(aside, places, inside & (kept == 0), KIND))
    return key


@triton.jit
def zero_masked(
    addresses,
    bits,
    numel,
    layout,
    slot,
    start,
    INT: tl.constexpr,
    CHECK: tl.constexpr,
    STRIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
):
    """+0 at every masked place of a tensor; CHECK: where something else stands, which is rare."""
    program = tl.program_id(0)
    s = tl.load(slot + program).to(tl.int64)
    first, n = tl.load(start + program), tl.load(numel + s)
    words = tl.load(bits + s).to(tl.pointer_type(tl.int32))
    pointer = tl.load(addresses + s).to(tl.pointer_type(INT))
    for at in range(0, PIECE, BLOCK):
        offsets = first + at + tl.arange(0, BLOCK)
        masked = (offsets < n) & (_kept(words, offsets, offsets < n) == 0)
        places = _place(offsets, layout, s, STRIDED)
        if CHECK:
            masked = masked & (tl.load(pointer + places, mask=masked, other=0) != 0)
        tl.store(pointer + places, tl.zeros([BLOCK], INT), mask=masked)


@triton.jit
def zero_dense(
    addresses,
    bits,
    numel,
    slot,
    start,
    INT: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
):
    """As zero_masked with addresses that are multiples of 16: whole lines, 128 bits at a time."""
    program = tl.program_id(0)
    s = tl.load(slot + program).to(tl.int64)
    first, n = tl.load(start + program), tl.load(numel + s)
    words = tl.load(bits + s).to(tl.pointer_type(tl.int32))
    address = tl.load(addresses + s)
    lanes = tl.arange(0, BLOCK)
    for at in range(0, PIECE, BLOCK):
        begin = tl.multiple_of(first + at, BLOCK)
        pointer = tl.multiple_of(address.to(tl.pointer_type(INT)) + begin, 16)
        if begin + BLOCK <= n:
            word = tl.load(words + (begin >> 5) + (lanes >> 5))
            kept = ((word >> (lanes & 31)) & 1) != 0
            tl.store(pointer + lanes, tl.where(kept, tl.load(pointer + lanes), 0))
        elif begin < n:
            inside = begin + lanes < n
            masked = inside & (_kept(words, begin + lanes, inside) == 0)
            tl.store(pointer + lanes, tl.zeros([BLOCK], INT), mask=masked)


@triton.jit
def count_digits(
    weights,
    asides,
    bits,
    numel,
    layout,
    slot,
    start,
    found,
    nans,
    counts,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    KIND: tl.constexpr,
    STRIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
    BINS: tl.constexpr,
):
    """How often each digit occurs among the keys that begin with the digits found so far."""
    program = tl.program_id(0)
    s = tl.load(slot + program).to(tl.int64)
    first, n = tl.load(start + program), tl.load(numel + s)
    weight, aside = tl.load(weights + s), tl.load(asides + s)
    words = tl.load(bits + s).to(tl.pointer_type(tl.int32))
    prefix = tl.load(found + s) >> (SHIFT + WIDTH)
    total = tl.zeros([BINS], tl.int32)
    bad = tl.zeros([BLOCK], tl.int32)
    for at in range(0, PIECE, BLOCK):
        offsets = first + at + tl.arange(0, BLOCK)
        inside = offsets < n
        places = _place(offsets, layout, s, STRIDED)
        key = _keys(weight, aside, words, offsets, places, inside, KIND)
        if FIRST:
            bad += (inside & (key > _NAN)).to(tl.int32)
        match = inside & ((key >> (SHIFT + WIDTH)) == prefix)
        total += tl.histogram((key >> SHIFT) & ((1 << WIDTH) - 1), BINS, mask=match)
    if FIRST:
        some = tl.sum(bad, axis=0)
        if some > 0:
            tl.atomic_add(nans + s, some)
    bins = tl.arange(0, BINS)
    tl.atomic_add(counts + s * BINS + bins, total, mask=total > 0)


@triton.jit
def find_digit(
    counts,
    found,
    rank,
    ties,
    keeps,
    SHIFT: tl.constexpr,
    FIRST: tl.constexpr,
    BINS: tl.constexpr,
):
    """The digit of the rank-th largest key, its rank among those that share it, their number."""
    s = tl.program_id(0).to(tl.int64)
    bins = tl.arange(0, BINS)
    here = tl.load(counts + s * BINS + bins)
    if FIRST:
        k, so_far = tl.maximum(tl.load(keeps + s), 1).to(tl.int32), 0
    else:
        k, so_far = tl.load(rank + s), tl.load(found + s)
    upto = tl.cumsum(here, axis=0, reverse=True)  # keys with this digit or a larger one
    digit = tl.sum((upto >= k).to(tl.int32), axis=0) - 1
    equals = tl.sum(tl.where(bins == digit, here, 0), axis=0)
    above = tl.sum(tl.where(bins == digit, upto, 0), axis=0) - equals
    tl.store(rank + s, k - above)
    tl.store(ties + s, equals)
    tl.store(found + s, so_far | (digit << SHIFT))
    tl.store(counts + s * BINS + bins, tl.zeros([BINS], tl.int32))  # for the next digit


@triton.jit
def count_ties(
    weights,
    asides,
    bits,
    numel,
    layout,
    slot,
    start,
    found,
    rank,
    ties,
    before,
    KIND: tl.constexpr,
    STRIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
):
    """The threshold's equals in each piece, where not all of them survive."""
    program = tl.program_id(0)
    s = tl.load(slot + program).to(tl.int64)
    if tl.load(rank + s) < tl.load(ties + s):
        first, n = tl.load(start + program), tl.load(numel + s)
        weight, aside = tl.load(weights + s), tl.load(asides + s)
        words = tl.load(bits + s).to(tl.pointer_type(tl.int32))
        threshold = tl.load(found + s)
        equal = tl.zeros([BLOCK], tl.int32)
        for at in range(0, PIECE, BLOCK):
            offsets = first + at + tl.arange(0, BLOCK)
            inside = offsets < n
            places = _place(offsets, layout, s, STRIDED)
            key = _keys(weight, aside, words, offsets, places, inside, KIND)
            equal += (inside & (key == threshold)).to(tl.int32)
        tl.store(before + program, tl.sum(equal, axis=0))


@triton.jit
def sum_before(first_piece, before, rank, ties, STEP: tl.constexpr):
    """In place of each piece's ties, those of all pieces of the tensor before it."""
    s = tl.program_id(0).to(tl.int64)
    if tl.load(rank + s) < tl.load(ties + s):
        piece, end = tl.load(first_piece + s), tl.load(first_piece + s + 1)
        so_far = 0
        while piece < end:
            at = piece + tl.arange(0, STEP)
            here = tl.load(before + at, mask=at < end, other=0)
            tl.store(before + at, so_far + tl.cumsum(here, axis=0) - here, mask=at < end)
            so_far += tl.sum(here, axis=0)
            piece += STEP


@triton.jit
def emit_mask(
    weights,
    asides,
    bits,
    fresh,
    numel,
    layout,
    slot,
    start,
    found,
    rank,
    ties,
    keeps,
    nans,
    before,
    KIND: tl.constexpr,
    STRIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
):
    """The bits of the new mask: keys above the threshold, and of its equals the first ``rank``.

    Those of the mask in force where a key was NaN.
    """
    program = tl.program_id(0)
    s = tl.load(slot + program).to(tl.int64)
    first, n = tl.load(start + program), tl.load(numel + s)
    weight, aside = tl.load(weights + s), tl.load(asides + s)
    words = tl.load(bits + s).to(tl.pointer_type(tl.int32))
    new_words = tl.load(fresh + s).to(tl.pointer_type(tl.int32))
    threshold, need, equals = tl.load(found + s), tl.load(rank + s), tl.load(ties + s)
    some = (tl.load(keeps + s) > 0).to(tl.int32)
    bad = tl.load(nans + s)
    so_far = 0
    if need < equals:
        so_far = tl.load(before + program)
    for at in range(0, PIECE, BLOCK):
        offsets = first + at + tl.arange(0, BLOCK)
        inside = offsets < n
        places = _place(offsets, layout, s, STRIDED)
        key = _keys(weight, aside, words, offsets, places, inside, KIND)
        keep = (inside & (key >= threshold)).to(tl.int32) * some
        if need < equals:  # the last of the threshold's equals go
            tie = (inside & (key == threshold)).to(tl.int32)
            late = (so_far + tl.cumsum(tie, axis=0) > need).to(tl.int32)
            so_far += tl.sum(tie, axis=0)
            keep = keep & (1 - (tie & late))
        lanes = tl.arange(0, 32)[None, :]
        packed = tl.sum(tl.reshape(keep, [BLOCK // 32, 32]) << lanes, axis=1)
        word = ((first + at) >> 5) + tl.arange(0, BLOCK // 32)
        there = word < ((n + 31) >> 5)
        if bad != 0:
            packed = tl.load(words + word, mask=there, other=0)
        tl.store(new_words + word, packed, mask=there)


@triton.jit
def exchange(
    weights,
    asides,
    bits,
    fresh,
    numel,
    layout,
    slot,
    start,
    INT: tl.constexpr,
    KEEP: tl.constexpr,
    STRIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Put the new bits in force: weights that leave go aside (KEEP), those that return come back.

    Words of bits lie within one piece, so the program that has moved its weights writes them.
    """
    program = tl.program_id(0)
    s = tl.load(slot + program).to(tl.int64)
    first, n = tl.load(start + program), tl.load(numel + s)
    old = tl.load(bits + s).to(tl.pointer_type(tl.int32))
    new = tl.load(fresh + s).to(tl.pointer_type(tl.int32))
    pointer = tl.load(weights + s).to(tl.pointer_type(INT))
    address = tl.load(asides + s)
    beside = address.to(tl.pointer_type(INT))
    for at in range(0, PIECE, BLOCK):
        offsets = first + at + tl.arange(0, BLOCK)
        inside = offsets < n
        was, now = _kept(old, offsets, inside), _kept(new, offsets, inside)
        leaves, returns = was & (now == 0), now & (was == 0)
        places = _place(offsets, layout, s, STRIDED)
        back = tl.zeros([BLOCK], INT)
        if address != 0:
            back = tl.load(beside + places, mask=returns, other=0)
            if KEEP:
                value = tl.load(pointer + places, mask=leaves, other=0)
                tl.store(beside + places, value, mask=leaves)
        tl.store(pointer + places, back, mask=returns | leaves)
    tl.debug_barrier()  # until all threads have read the old bits
    word = (first >> 5) + tl.arange(0, PIECE // 32)
    there = word < ((n + 31) >> 5)
    tl.store(old + word, tl.load(new + word, mask=there, other=0), mask=there)
