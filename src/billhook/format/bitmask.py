"""bitmask: one bit an element says whether it is stored (section 5 of the paper)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from billhook.errors import FormatError
from billhook.format.coding import Encoded, Layout
from billhook.format.dtypes import Elements

__all__ = ["Bitmask"]


@dataclass(frozen=True)
class Bitmask:
    """``bytes = nnz * width + ceil(numel / 8)``; bit i of byte j stands for element ``8 j + i``.

    >>> Bitmask().expect(numel=1001, nnz=100)
    Layout(stored=100, index_bytes=126, params={'nnz': 100}, exact=True)
    """

    name: str = "bitmask"

    def measure(self, elements: Elements, nnz: int) -> Layout:
        """Exact from the two counts."""
        return self.expect(elements.size, nnz)

    def expect(self, numel: int, nnz: int) -> Layout:
        """Exact from the two counts."""
        return Layout(stored=nnz, index_bytes=(numel + 7) // 8, params={"nnz": nnz})

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """The nonzero elements and the packed mask."""
        mask = elements != 0
        return Encoded(elements[mask], np.packbits(mask, bitorder="little"), layout.params)

    def stored(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """``nnz``, which with the mask must fill the entry."""
        if set(params) != {"nnz"}:
            raise FormatError(f"the bitmask coding takes nnz alone, found {dict(params)}")
        nnz = params["nnz"]
        if nnz > numel:
            raise FormatError(f"nnz={nnz} exceeds the {numel} elements of its shape")
        if room != nnz * width + (numel + 7) // 8:
            raise FormatError(
                f"nnz={nnz} values of {width} bytes and the mask of {numel} elements do not fill "
                f"{room} bytes"
            )
        return nnz

    def decode(self, encoded: Encoded, numel: int) -> Elements:
        """Scatter the values to the set bits, whose number must be that of the values."""
        mask = np.unpackbits(encoded.index, bitorder="little").view(np.bool_)
        if mask[numel:].any():
            raise FormatError(f"the mask has bits set beyond its {numel} elements")
        found = int(np.count_nonzero(mask))
        if found != encoded.values.size:
            raise FormatError(f"the mask has {found} bits set for {encoded.values.size} values")
        elements = np.zeros(numel, dtype=encoded.values.dtype)
        elements[mask[:numel]] = encoded.values
        return elements
