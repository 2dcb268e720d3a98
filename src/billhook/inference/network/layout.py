"""Where a network's activations lie: padded planes in one workspace.

Channels are planes of ``height`` rows, ``pitch`` floats apart. Rows share their padding: what lies
left of a row is the end of the row before. A convolution of stride 1 then is one flat product over
``height * pitch`` pixels with a constant offset a tap, and its results in the row ends are replaced
by zeros. All floats that are not pixels stay zero from the workspace's creation on.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from billhook.inference.kernels import LANES

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


@dataclass
class Region:
    """A part of the workspace that lives through [born, dies] of the program's operations."""

    layout: PlaneLayout
    channels: int
    born: int
    dies: int
    start: int = -1

    @property
    def size(self) -> int:
        return self.channels * self.layout.size


@dataclass
class Workspace:
    """Places regions; one that is dead may be taken over by a later one of equal layout.

    >>> layout = PlaneLayout(height=4, width=4, pitch=5, lead=8, tail=8)
    >>> space = Workspace()
    >>> regions = [Region(layout, 2, born=i, dies=i + 1) for i in range(3)]
    >>> space.place(regions)
    >>> regions[0].start == regions[2].start != regions[1].start
    True
    """

    size: int = 0
    _slots: dict[PlaneLayout, list[tuple[int, int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def place(self, regions: list[Region]) -> None:
        for region in sorted(regions, key=lambda r: r.born):
            slots = self._slots[region.layout]
            free = [
                (channels, index)
                for index, (_, channels, dies) in enumerate(slots)
                if dies < region.born and channels >= region.channels
            ]
            if free:
                index = min(free)[1]
                region.start = slots[index][0]
                slots[index] = (region.start, slots[index][1], region.dies)
            else:
                region.start = self.size
                slots.append((self.size, region.channels, region.dies))
                self.size += region.size
