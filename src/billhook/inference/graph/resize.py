"""Maps of another size, by bilinear interpolation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from billhook.inference import kernels
from billhook.inference.graph.ops import Plain, Shape, Site, is_count, only, planes_step, require
from billhook.inference.kernels import Step

__all__ = ["Resize"]


@dataclass(frozen=True)
class Resize(Plain):
    """Pixel i of the result lies at ``scales`` * (i + 1/2) - 1/2 of the source, for rows and
    columns; with ``corners`` at scales * i."""

    scales: tuple[float, float] = (1.0, 1.0)
    corners: bool = False

    type_name: ClassVar[str] = "Resize"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        source = only(sources, 3)
        numbers = len(self.scales) == 2 and all(type(s) in (int, float) for s in self.scales)
        require(
            numbers
            and all(0 <= s < 1e6 for s in self.scales)
            and isinstance(self.corners, bool)
            and len(self.shape) == 3
            and is_count(*self.shape, most=2**24),
            f"cannot resize {source}",
        )
        return (source[0], *self.shape[1:])

    def steps(self, site: Site) -> list[Step]:
        step = planes_step(kernels.RESIZE, site, self.shape)
        step.parameters[:] = self.scales
        step.function = int(self.corners)
        return [step]
