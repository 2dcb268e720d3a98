"""relative_index: before each stored value, the number of zeros skipped (section 5 of the paper).

A run of zeros longer than k bits can count needs *padding zeros*: stored values that are zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from billhook.errors import FormatError
from billhook.format import kernels
from billhook.format.coding import Encoded, Layout
from billhook.format.dtypes import Elements
from billhook.format.portable import Bytes

__all__ = ["MAX_BITS", "MIN_BITS", "RelativeIndex"]

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class RelativeIndex:
    """``bytes = stored * width + ceil(stored * k / 8)``, ``stored = nnz + padding``.

    A gap of g zeros before a nonzero takes ``floor(g / 2**k)`` padding zeros, each with a full gap
    of ``2**k - 1`` zeros before it, and so does the run of zeros at the end. ``bits`` fixes k for
    ``measure`` and ``expect``; None takes the k in 2..8 with the fewest bytes, tensor by tensor.

    >>> import numpy as np
    >>> elements = np.zeros(1000, dtype="<u4")
    >>> elements[[3, 500]] = 7
    >>> RelativeIndex(bits=8).measure(elements, nnz=2)  # 496 and 499 zeros: 1 padding zero each
    Layout(values=4, index_bytes=4, params={'nnz': 2, 'stored': 4, 'bits': 8}, exact=True)
    """

    bits: int | None = None
    name: str = "relative_index"

    def measure(self, elements: Elements, nnz: int) -> Layout:
        """Exact, by counting the padding zeros of each k."""
        padding = kernels.relative_index_padding(elements.reshape(-1))
        counts = {bits: nnz + int(padding[bits]) for bits in self._choices()}
        return _smallest(counts, nnz, elements.itemsize)

    def expect(self, numel: int, nnz: int, width: int) -> Layout:
        """The expected padding of a random mask: the gap is geometric, so a padding zero follows
        with probability ``(1 - d)**(2**k)`` at density ``d = nnz / numel``."""
        zero = 1 - nnz / numel if numel else 0.0
        counts = {}
        for bits in self._choices():
            again = zero ** (1 << bits)
            padding = numel >> bits if nnz == 0 else nnz * again / (1 - again)
            counts[bits] = nnz + round(padding)
        return _smallest(counts, nnz, width, exact=False)

    def _choices(self) -> range:
        if self.bits is None:
            return range(MIN_BITS, MAX_BITS + 1)
        return range(self.bits, self.bits + 1)

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """The gaps and the values between which the padding zeros stand."""
        index, values = kernels.relative_index_encode(
            elements.reshape(-1), layout.params["bits"], layout.values
        )
        return Encoded(values, index, layout.params)

    def check_entry(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """``stored``, which with its gaps must fill the entry and reach the tensor's end."""
        if list(params) != ["nnz", "stored", "bits"]:
            raise FormatError(
                f"the relative_index coding takes nnz, stored, bits; found {dict(params)}"
            )
        nnz, stored, bits = params.values()
        if not MIN_BITS <= bits <= MAX_BITS:
            raise FormatError(f"bits={bits}: a gap has {MIN_BITS} to {MAX_BITS} bits")
        if not nnz <= stored <= numel:
            raise FormatError(f"nnz={nnz}, stored={stored}: not in order below {numel} elements")
        if room != stored * width + (stored * bits + 7) // 8:
            raise FormatError(
                f"stored={stored} values of {width} bytes and gaps of {bits} bits do not fill "
                f"{room} bytes"
            )
        if numel >= (stored + 1) << bits:
            raise FormatError(f"{stored} gaps of {bits} bits cannot span {numel} elements")
        return stored

    def nonzeros(self, encoded: Encoded, shape: tuple[int, ...]) -> tuple[Bytes, Elements]:
        """Of a tensor of bytes that says which elements are values, padding zeros left out."""
        numel, bits = math.prod(shape), encoded.params["bits"]
        wanted = (encoded.values != 0).astype(np.uint8)
        marks = kernels.relative_index_decode(encoded.index, bits, wanted, numel)
        return np.packbits(marks, bitorder="little"), encoded.values[wanted != 0]

    def decode(self, encoded: Encoded, shape: tuple[int, ...]) -> Elements:
        """Walk the gaps; every one must lead to an element of the tensor."""
        numel, bits = math.prod(shape), encoded.params["bits"]
        elements = kernels.relative_index_decode(encoded.index, bits, encoded.values, numel)
        return elements.reshape(shape)


def _smallest(counts: Mapping[int, int], nnz: int, width: int, exact: bool = True) -> Layout:
    """The layout of fewest bytes among ``{bits: stored values}``."""
    layouts = [
        Layout(
            stored, (stored * k + 7) // 8, {"nnz": nnz, "stored": stored, "bits": k}, exact=exact
        )
        for k, stored in counts.items()
    ]
    return min(layouts, key=lambda layout: layout.nbytes(width))
