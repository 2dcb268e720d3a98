"""dense: every element stored, no index."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from billhook.errors import FormatError
from billhook.format import kernels
from billhook.format.coding import Encoded, Layout
from billhook.format.dtypes import Elements
from billhook.format.portable import Bytes

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense:
    """``bytes = numel * width``: what every other coding is measured against.

    >>> Dense().expect(numel=1000, nnz=1, width=4)
    Layout(values=1000, index_bytes=0, params={}, exact=True)
    """

    name: str = "dense"

    def measure(self, elements: Elements, nnz: int) -> Layout:  # noqa: ARG002
        """Size does not depend on the zeros."""
        return Layout(values=elements.size, index_bytes=0)

    def expect(self, numel: int, nnz: int, width: int) -> Layout:  # noqa: ARG002
        """Size does not depend on the zeros."""
        return Layout(values=numel, index_bytes=0)

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """All elements, no copy."""
        return Encoded(elements.reshape(-1), np.empty(0, dtype=np.uint8), layout.params)

    def check_entry(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """All ``numel``, which must fill the entry."""
        if params:
            raise FormatError(f"the dense coding takes no parameters, found {dict(params)}")
        if room != numel * width:
            raise FormatError(f"{numel} elements of {width} bytes do not fill {room} bytes")
        return numel

    def nonzeros(self, encoded: Encoded, shape: tuple[int, ...]) -> tuple[Bytes, Elements]:  # noqa: ARG002
        """Of the elements that are not zero."""
        nnz = int(np.count_nonzero(encoded.values))
        return kernels.bitmask_encode(encoded.values, nnz)

    def decode(self, encoded: Encoded, shape: tuple[int, ...]) -> Elements:
        """The values themselves: they were read into memory of their own."""
        return encoded.values.reshape(shape)
