"""What a coding is: a way to write which elements of a tensor are not zero.

A coding turns the elements of one tensor (an array of its shape) into *stored values* (elements, in
row-major order) and an *index* (bytes that say where they go). Both live in one entry of the file.
To add a coding: one module with one frozen class, one line in ``codings.py``, one section in
SPEC.md; ``tests/format/test_codings.py`` then checks it as it checks the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from billhook.format.dtypes import Elements

__all__ = ["Coding", "Encoded", "Layout"]


@dataclass(frozen=True)
class Layout:
    """How large one tensor is in one coding, known before a byte of it is written.

    ``values`` counts the values written (padding zeros included), ``index_bytes`` the bytes that
    place them, ``params`` what a reader must know besides dtype and shape, in the file's order.
    ``exact`` is False when the sizes are an expectation over random masks. ``index`` is the index
    itself where it had to be encoded to be measured.
    """

    values: int
    index_bytes: int
    params: Mapping[str, int] = field(default_factory=dict)
    exact: bool = True
    index: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def nbytes(self, width: int) -> int:
        """Bytes of the entry, with values of ``width`` bytes."""
        return self.values * width + self.index_bytes


@dataclass(frozen=True)
class Encoded:
    """One encoded tensor: its stored values, in row-major order, and its index."""

    values: Elements
    index: NDArray[np.uint8]
    params: Mapping[str, int]


class Coding(Protocol):
    """The interface; implementations hold no state."""

    @property
    def name(self) -> str:
        """The coding's name in files and arguments."""
        ...

    def measure(self, elements: Elements, nnz: int) -> Layout:
        """The exact layout of these elements, of which ``nnz`` are not zero."""
        ...

    def expect(self, numel: int, nnz: int, width: int) -> Layout:
        """The layout of ``nnz`` nonzeros anywhere among ``numel`` elements: exact where only these
        two numbers matter, the expectation over random masks (``exact=False``) elsewhere."""
        ...

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """Write ``elements`` by the layout that ``measure`` returned for them."""
        ...

    def check_entry(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """How many values an entry of ``room`` bytes holds, by its untrusted ``params``.

        Raises FormatError when the entry cannot be one of ``numel`` elements of ``width`` bytes;
        after this check an allocation of ``numel`` elements is in proportion to the file.
        """
        ...

    def nonzeros(
        self, encoded: Encoded, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.uint8], Elements]:
        """The mask of ``shape`` as ``bitmask`` writes it, and the elements that are not zero;
        nothing is made dense that is not stored so.

        Raises FormatError on an index that does not fit. The caller checks that the mask has as
        many bits set as there are values.
        """
        ...

    def decode(self, encoded: Encoded, shape: tuple[int, ...]) -> Elements:
        """The elements in ``shape`` again.

        Raises FormatError on an index that does not fit; whatever the bytes, it never crashes.
        """
        ...
