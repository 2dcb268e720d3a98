"""What the kernels in 8 bits read, made slowly and simply from a dense matrix of s8."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["blocks", "matrix", "packs", "quads", "stream", "windows"]

Matrix = NDArray[np.int8]
PACK, WINDOW = 16, 64


def matrix(weight: Matrix, groups: int) -> list[list[int]]:
    """Of (M, K, kh, kw) the rows: for each tap the channels of all groups, in whole quads."""
    filters, inputs, kh, kw = weight.shape
    channels = -(-inputs * groups // 4) * 4
    rows = []
    for m in range(filters):
        first = m // (filters // groups) * inputs
        row = [0] * (kh * kw * channels)
        for k in range(inputs):
            for tap in range(kh * kw):
                row[tap * channels + first + k] = int(weight[m, k, tap // kw, tap % kw])
        rows.append(row)
    return rows


def _four(m: Matrix, row: int, quad: int) -> list[int]:
    if row >= len(m):
        return [0] * 4
    own = [int(v) for v in m[row, 4 * quad : 4 * quad + 4]]
    return own + [0] * (4 - len(own))


def _used(m: Matrix, first: int, group: int, every: bool = False) -> list[int]:
    """The quads of a group of rows that have a nonzero."""
    rows = range(first, first + group)
    quads = range(-(-m.shape[1] // 4))
    return [q for q in quads if every or any(any(_four(m, r, q)) for r in rows)]


def blocks(m: Matrix, group: int, every: bool, words: bool) -> dict[str, list[int]]:
    """ptr, columns and values of ``BlockRows``."""
    made: dict[str, list[int]] = {"ptr": [0], "column": [], "value": []}
    least = max(group, 4)
    for first in range(0, -(-len(m) // least) * least, group):
        for quad in _used(m, first, group, every):
            made["column"].append(quad)
            for r in range(first, first + group):
                a, b, c, d = _four(m, r, quad)
                made["value"] += [a, c, b, d] if words else [a, b, c, d]
        made["ptr"].append(len(made["column"]))
    return made


def packs(m: Matrix, group: int, words: bool) -> dict[str, list[int]]:
    """ptr, rows, columns and values of ``VectorRows``."""
    firsts = list(range(0, -(-len(m) // PACK) * PACK, group))
    if group < PACK:
        firsts.sort(key=lambda first: -len(_used(m, first, group)))
    of_pack = PACK // group
    rows = [first + i for first in firsts for i in range(group)]
    made: dict[str, list[int]] = {"ptr": [0], "column": [], "value": []}
    made["row"] = [r if r < len(m) else -1 for r in rows]
    for at in range(0, len(firsts), of_pack):
        own = [(first, _used(m, first, group)) for first in firsts[at : at + of_pack]]
        steps = max(len(used) for _, used in own)
        for step in range(steps):
            lanes: list[list[int]] = []
            for first, used in own:
                there = step < len(used)
                made["column"].append(used[step] if there else 0)
                some = [_four(m, first + i, used[step]) if there else [0] * 4 for i in range(group)]
                lanes += some
            made["value"] += _in_words(lanes) if words else [v for lane in lanes for v in lane]
        made["ptr"].append(made["ptr"][-1] + steps)
    return made


def _in_words(lanes: list[list[int]]) -> list[int]:
    """Of eight rows the values 0 and 2 of each, then 1 and 3."""
    made = []
    for half in (lanes[:8], lanes[8:]):
        for parity in (0, 1):
            for lane in half:
                made += [lane[parity], lane[parity + 2]]
    return made


def _cells(m: Matrix) -> Any:
    """Of each pack and window the rows' nonzeros, as (column, value), and the steps."""
    for first in range(0, len(m), PACK):
        for begin in range(0, max(m.shape[1], 1), WINDOW):
            rows = [
                [(c, int(m[r, begin + c])) for c in np.flatnonzero(m[r, begin : begin + WINDOW])]
                if r < len(m)
                else []
                for r in range(first, first + PACK)
            ]
            yield rows, max(-(-len(row) // 4) for row in rows)


def windows(m: Matrix) -> dict[str, list[int]]:
    """ptr, columns and values of all places of ``WindowRows``."""
    made: dict[str, list[int]] = {"ptr": [0], "index": [], "value": []}
    for rows, steps in _cells(m):
        for step in range(steps):
            for row in rows:
                own = row[4 * step : 4 * step + 4]
                own += [(0, 0)] * (4 - len(own))
                made["index"] += [int(c) for c, _ in own]
                made["value"] += [v for _, v in own]
        made["ptr"].append(made["ptr"][-1] + steps)
    return made


def stream(m: Matrix) -> dict[str, list[int]]:
    """Of the same the masks, where packs begin, and the bytes: columns, then values, of a step."""
    made: dict[str, list[int]] = {"mask": [], "begin": [0], "stream": []}
    of_pack = max(1, -(-m.shape[1] // WINDOW))
    for i, (rows, steps) in enumerate(_cells(m)):
        for step in range(steps):
            places = [
                (4 * r + n % 4, *row[n])
                for r, row in enumerate(rows)
                for n in range(4 * step, min(4 * step + 4, len(row)))
            ]
            made["mask"].append(sum(1 << place for place, *_ in places))
            made["stream"] += [int(c) for _, c, _ in places] + [v % 256 for *_, v in places]
        if (i + 1) % of_pack == 0:
            made["begin"].append(len(made["stream"]))
    return made


def quads(taps: NDArray[np.int8], stride: int, words: bool) -> list[int]:
    """Of (channels, height, width) for each row of taps, run and form the bytes of four channels.

    A run is four taps, or two as words. At stride 1 its forms are a row's taps from its first one
    on, and from the one before it on; at stride 2 the first form alone.
    """
    made: list[int] = []
    channels, height, width = taps.shape
    run, forms = (2 if words else 4), (1 if stride == 2 else 2)
    for quad in range(-(-channels // 4)):
        for row in range(height):
            for first in range(0, width + forms - 1, run):
                for form in range(forms):
                    for c in range(4 * quad, 4 * quad + 4):
                        places = [first - form + i for i in range(run)]
                        known = [c < channels and 0 <= at < width for at in places]
                        own = [
                            int(taps[c, row, at]) if k else 0
                            for at, k in zip(places, known, strict=True)
                        ]
                        made += [b for v in own for b in ((v, -(v < 0)) if words else (v,))]
    return made
