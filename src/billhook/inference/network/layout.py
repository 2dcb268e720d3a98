"""The workspace of a network: which regions of it hold which values, one after another."""

from collections import defaultdict
from dataclasses import dataclass, field

from billhook.inference.graph.planes import PlaneLayout

__all__ = ["Region", "Workspace"]


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
