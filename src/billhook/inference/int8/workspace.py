"""Where a program's values lie: regions of one workspace, reused when what they held is dead."""

from dataclasses import dataclass, field

__all__ = ["LINE", "SLACK", "Region", "place", "plane_bytes"]

LINE = 64  # bytes: sixteen pixels of a quad
SLACK = 256  # bytes that kernels may touch beyond a value


def plane_bytes(pixels: int) -> int:
    """Bytes from one quad of a map to the next: whole lines, an odd number of them, so that equal
    pixels of many quads do not fall into the same few cache sets.

    >>> plane_bytes(49), plane_bytes(12544) // LINE
    (320, 785)
    """
    return (-(-4 * pixels // LINE) | 1) * LINE


@dataclass
class Region:
    """Bytes that live from operation ``born`` to operation ``dies``, both included."""

    size: int
    born: int
    dies: int
    start: int = field(default=-1)


def place(regions: list[Region]) -> int:
    """Gives every region its start, the lowest free one; returns the size of the workspace.

    >>> regions = [Region(64, born=i, dies=i + 1) for i in range(3)]
    >>> place(regions), [region.start for region in regions]
    (384, [0, 64, 0])
    """
    placed: list[Region] = []
    size = 0
    for region in sorted(regions, key=lambda r: r.born):
        start = 0
        for other in sorted(placed, key=lambda r: r.start):
            if other.dies < region.born:
                continue
            if start + region.size <= other.start:
                break
            start = max(start, other.start + other.size)
        region.start = start
        placed.append(region)
        size = max(size, start + region.size)
    return size + SLACK
