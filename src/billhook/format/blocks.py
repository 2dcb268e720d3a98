"""blocks: one bit for every block of elements, for tensors that were pruned in blocks.

The sides of a block are powers of two, chosen tensor by tensor by what the entry then takes. Blocks
at the edges are smaller. A block with an element that is not zero is stored whole, zeros included.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from billhook.errors import FormatError
from billhook.format import kernels, portable
from billhook.format.coding import Encoded, Layout
from billhook.format.density import geometry
from billhook.format.dtypes import Elements
from billhook.format.portable import Bytes

__all__ = ["Blocks"]

MAX_ELEMENTS = 256  # of a block, so that a byte of an index describes at most 2048 elements

Mask = NDArray[np.bool_]
Sides = tuple[int, int, int]


@dataclass(frozen=True)
class Blocks:
    """``bytes = stored * width + ceil(blocks / 8)``, over (first, second, all other dimensions).

    >>> import numpy as np
    >>> elements = np.zeros((8, 8), dtype="<u4")
    >>> elements[:4, :2] = 7
    >>> Blocks().measure(elements, nnz=8).params
    {'nnz': 8, 'stored': 8, 'rows': 4, 'columns': 2, 'inner': 1, 'blocks': 8}
    """

    name: str = "blocks"

    def measure(self, elements: Elements, nnz: int) -> Layout:
        """Exact: each side is doubled as long as the entry becomes smaller."""
        shape, sides = geometry(elements.shape), [1, 1, 1]
        mask = (elements != 0).reshape(shape)
        best = _layout(mask, (1, 1, 1), shape, nnz)
        for axis in range(3):
            while math.prod(sides) < MAX_ELEMENTS and mask.shape[axis] > 1:
                halved = _halved(mask, axis)
                sides[axis] *= 2
                longer = _layout(halved, _three(sides), shape, nnz)
                if longer.nbytes(elements.itemsize) >= best.nbytes(elements.itemsize):
                    sides[axis] //= 2
                    break
                mask, best = halved, longer
        return best

    def expect(self, numel: int, nnz: int, width: int) -> Layout:  # noqa: ARG002
        """That of a mask without blocks: ``bitmask``'s."""
        params = {"nnz": nnz, "stored": nnz, "rows": 1, "columns": 1, "inner": 1, "blocks": numel}
        return Layout(nnz, (numel + 7) // 8, params, exact=False)

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """The elements of the blocks that ``measure`` found, in row-major order."""
        assert layout.index is not None
        shape = geometry(elements.shape)
        kept = _spread(layout.index, _sides(layout.params), shape)
        return Encoded(elements.reshape(shape)[kept], layout.index, layout.params)

    def check_entry(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """``stored``, which with a bit for each of the blocks must fill the entry."""
        if list(params) != ["nnz", "stored", "rows", "columns", "inner", "blocks"]:
            raise FormatError(
                "the blocks coding takes nnz, stored, rows, columns, inner, blocks; found "
                f"{dict(params)}"
            )
        nnz, stored, *sides, blocks = params.values()
        if math.prod(sides) > MAX_ELEMENTS or any(side < 1 or side & (side - 1) for side in sides):
            raise FormatError(
                f"blocks of {sides[0]} x {sides[1]} x {sides[2]}: each side is a power of two, a "
                f"block has at most {MAX_ELEMENTS} elements"
            )
        if not nnz <= stored <= numel:
            raise FormatError(f"nnz={nnz}, stored={stored}: not in order below {numel} elements")
        if room != stored * width + (blocks + 7) // 8:
            raise FormatError(
                f"stored={stored} values of {width} bytes and {blocks} blocks do not fill {room} "
                "bytes"
            )
        if numel > blocks * math.prod(sides):
            raise FormatError(f"{blocks} blocks of {sides} cannot hold {numel} elements")
        return stored

    def nonzeros(self, encoded: Encoded, shape: tuple[int, ...]) -> tuple[Bytes, Elements]:
        """Of the blocks' elements those that are not zero."""
        kept = _kept(encoded, shape)
        if np.count_nonzero(kept) != len(encoded.values):
            raise FormatError(portable.mask_error(_packed(kept), len(encoded.values), kept.size))
        wanted = encoded.values != 0
        kept[kept] = wanted
        return _packed(kept), encoded.values[wanted]

    def decode(self, encoded: Encoded, shape: tuple[int, ...]) -> Elements:
        """Scatter the values to the stored blocks, whose elements must be as many."""
        mask = _packed(_kept(encoded, shape))
        return kernels.bitmask_decode(mask, encoded.values, math.prod(shape)).reshape(shape)


def _kept(encoded: Encoded, shape: tuple[int, ...]) -> Mask:
    """Of each element, flat, whether its block is stored."""
    sides, whole = _sides(encoded.params), geometry(shape)
    blocks = math.prod(_counts(whole, sides))
    if blocks != encoded.params["blocks"]:
        raise FormatError(
            f"blocks={encoded.params['blocks']}, but {list(shape)} has {blocks} of "
            f"{sides[0]} x {sides[1]} x {sides[2]}"
        )
    if np.unpackbits(encoded.index, bitorder="little")[blocks:].any():
        raise FormatError(f"bits are set behind those of the {blocks} blocks")
    return _spread(encoded.index, sides, whole).reshape(-1)


def _packed(mask: Mask) -> Bytes:
    return np.packbits(mask, bitorder="little")


def _layout(mask: Mask, sides: Sides, shape: Sides, nnz: int) -> Layout:
    """The layout by the mask of the blocks of a tensor of ``shape``."""
    stored = sum(
        int(np.count_nonzero(mask[tuple(part for part, _ in corner)]))
        * math.prod(side for _, side in corner)
        for corner in itertools.product(*map(_parts, sides, shape))
    )
    params = {"nnz": nnz, "stored": stored}
    params |= dict(zip(("rows", "columns", "inner"), sides, strict=True))
    index = np.packbits(mask, bitorder="little")
    return Layout(stored, index.size, {**params, "blocks": mask.size}, index=index)


def _parts(side: int, size: int) -> list[tuple[slice, int]]:
    """The whole blocks along an axis, and the smaller one behind them, each with its side."""
    whole, rest = divmod(size, side)
    return [(slice(0, whole), side), (slice(whole, None), rest)]


def _halved(mask: Mask, axis: int) -> Mask:
    """Pairs along an axis in one; the last one may stand alone."""
    first, second = (
        mask[tuple(slice(start if a == axis else 0, None, 2 if a == axis else 1) for a in range(3))]
        for start in (0, 1)
    )
    both = first.copy()
    both[tuple(slice(0, size) for size in second.shape)] |= second
    return both


def _spread(index: NDArray[np.uint8], sides: Sides, shape: Sides) -> Mask:
    """The mask of the elements, from the bits of the blocks."""
    counts = _counts(shape, sides)
    bits = np.unpackbits(index, count=math.prod(counts), bitorder="little")
    mask = bits.astype(bool).reshape(counts)
    for axis, (side, size) in enumerate(zip(sides, shape, strict=True)):
        if side > 1:
            mask = mask.take(np.arange(size) // side, axis)
    return mask


def _counts(shape: Sides, sides: Sides) -> Sides:
    return _three([-(-size // side) for size, side in zip(shape, sides, strict=True)])


def _sides(params: Mapping[str, int]) -> Sides:
    return params["rows"], params["columns"], params["inner"]


def _three(values: list[int]) -> Sides:
    first, second, third = values
    return first, second, third
