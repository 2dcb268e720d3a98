"""bitmask: one bit per element says whether it is stored (section 5 of the paper)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from billhook.errors import FormatError
from billhook.format import kernels
from billhook.format.coding import Encoded, Layout
from billhook.format.dtypes import Elements
from billhook.format.portable import Bytes

__all__ = ["Bitmask"]


@dataclass(frozen=True)
class Bitmask:
    """``bytes = nnz * width + ceil(numel / 8)``; bit i of byte j stands for element ``8 j + i``.

    >>> Bitmask().expect(numel=1001, nnz=100, width=4)
    Layout(values=100, index_bytes=126, params={'nnz': 100}, exact=True)
    """

    name: str = "bitmask"

    def measure(self, elements: Elements, nnz: int) -> Layout:
        """Exact from the two counts."""
        return self.expect(elements.size, nnz, elements.itemsize)

    def expect(self, numel: int, nnz: int, width: int) -> Layout:  # noqa: ARG002
        """Exact from the two counts."""
        return Layout(values=nnz, index_bytes=(numel + 7) // 8, params={"nnz": nnz})

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """The nonzero elements and the packed mask."""
        mask, values = kernels.bitmask_encode(elements.reshape(-1), layout.values)
        return Encoded(values, mask, layout.params)

    def check_entry(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """``nnz``, which with the mask must fill the entry."""
        if list(params) != ["nnz"]:
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

    def nonzeros(self, encoded: Encoded, shape: tuple[int, ...]) -> tuple[Bytes, Elements]:  # noqa: ARG002
        """The index and the values themselves."""
        return encoded.index, encoded.values

    def decode(self, encoded: Encoded, shape: tuple[int, ...]) -> Elements:
        """Scatter the values to the set bits, whose number must be that of the values."""
        elements = kernels.bitmask_decode(encoded.index, encoded.values, math.prod(shape))
        return elements.reshape(shape)
