"""How a network's maps lie in memory: padded planes.

Channels are planes of ``height`` rows, ``pitch`` floats apart. Rows share their padding: what lies
left of a row is the end of the row before. A convolution of stride 1 then is one flat product over
``height * pitch`` pixels with a constant offset per tap, and its results in the row ends are
replaced by zeros. All floats that are not pixels stay zero from the workspace's creation on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from billhook.inference.kernels import LANES

__all__ = ["LINE", "PlaneLayout", "keep_mask", "round_up"]

LINE = 16  # floats in a cache line


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below value.

    >>> round_up(49, 8), round_up(56, 8)
    (56, 56)
    """
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class PlaneLayout:
    """One channel's plane: ``lead`` zeros, ``height`` rows of ``pitch``, ``tail`` zeros or more."""

    height: int
    width: int
    pitch: int
    lead: int
    tail: int

    @property
    def pixels(self) -> int:
        """Pixels of the flat product, row ends included."""
        return self.height * self.pitch

    @property
    def pixels_rounded(self) -> int:
        """The same in whole vectors."""
        return round_up(self.pixels, LANES)

    @property
    def size(self) -> int:
        """Floats from one plane to the next: an odd number of cache lines, so that the planes'
        equal pixels do not fall into the same few cache sets."""
        size = round_up(self.lead + self.pixels_rounded + self.tail + LANES, LINE)
        return size if size // LINE % 2 else size + LINE


def keep_mask(layout: PlaneLayout) -> NDArray[np.int32] | None:
    """-1 for the pixels of a plane and 0 for its row ends; None where there are only pixels."""
    if layout.pitch == layout.width and layout.pixels == layout.pixels_rounded:
        return None
    keep = np.zeros(layout.pixels_rounded, np.int32)
    keep[: layout.pixels].reshape(layout.height, layout.pitch)[:, : layout.width] = -1
    return keep
