"""Where the values of a program lie: in regions of their own, or within what they are joined to."""

from collections.abc import Mapping
from dataclasses import dataclass

from billhook.inference.int8.ops import INPUT, Concat, Program, Shape
from billhook.inference.int8.workspace import LINE, Region, plane_bytes

__all__ = ["Place", "places_of", "regions_of"]


@dataclass(frozen=True)
class Place:
    """A value within a region: its own, or a concatenation's."""

    owner: int
    offset: int  # bytes
    plane: int


def places_of(program: Program) -> dict[int, Place]:
    """What is joined is made where the whole lies, if it begins at a quad."""
    places: dict[int, Place] = {}
    for index in reversed(range(-1, len(program.ops))):
        shape = program.shape(index)
        plane = plane_bytes(shape[1] * shape[2]) if len(shape) == 3 else 4
        places.setdefault(index, Place(index, 0, plane))
        op = program.ops[index] if index != INPUT else None
        if not isinstance(op, Concat):
            continue
        first = 0
        for value in op.inputs:
            channels = program.shape(value)[0]
            own = places[index]
            whole = first % 4 == 0 and (channels % 4 == 0 or first + channels == shape[0])
            if whole and value not in places:
                places[value] = Place(own.owner, own.offset + first // 4 * plane, plane)
            first += channels
    return places


def regions_of(program: Program, places: Mapping[int, Place]) -> dict[int, Region]:
    """The region of each value that has one, and how long it lives."""
    dies = {index: index for index in places}
    for index, op in enumerate(program.ops):
        for value in op.inputs:
            dies[value] = index
    dies[len(program.ops) - 1] = len(program.ops)
    regions: dict[int, Region] = {}
    for index in sorted(places):
        owner = places[index].owner
        if owner not in regions:
            size = _bytes_of(program.shape(owner), program.range(owner) is None)
            regions[owner] = Region(size, index, dies[index])
        region = regions[owner]
        region.dies = max(region.dies, dies[index])
    return regions


def _bytes_of(shape: Shape, floats: bool) -> int:
    """Bytes of a value, with what kernels touch beyond it."""
    if len(shape) == 1:
        return -(-shape[0] * (4 if floats else 1) // LINE) * LINE + LINE
    return -(-shape[0] // 4) * plane_bytes(shape[1] * shape[2])
