"""Products of two computed matrices, and attention, on planes of one row for each feature."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from billhook.inference import kernels
from billhook.inference.graph.ops import (
    Plain,
    Shape,
    Site,
    is_count,
    planes_step,
    require,
    steps_of,
)
from billhook.inference.kernels import Step, View

__all__ = ["Attention", "Matmul"]

LEFT = {"CW": (0, 2), "WC": (2, 0), "HW": (1, 2), "WH": (2, 1)}  # the axes of its rows and terms


@dataclass(frozen=True)
class Matmul(Plain):
    """y[g, m, j] = sum over k of left[g, m, k] right[g, k, j], for each of ``groups``.

    ``left`` says which axes of the first value m and k lie along; the groups are the slower part of
    its channels. The second value's k lies in its channels after g, or if ``by_rows`` in its rows,
    j along its columns. The result's m lies in its rows if m or k does in the columns and the
    channels ("WC"), or in the rows of the first value; else in the channels after g.
    """

    groups: int = 1
    left: str = "CW"
    by_rows: bool = False

    type_name: ClassVar[str] = "Matmul"

    def _sizes(self, sources: Sequence[Shape]) -> tuple[int, int, int]:
        """m, k and j."""
        require(
            len(sources) == 2
            and all(len(source) == 3 for source in sources)
            and self.left in LEFT
            and isinstance(self.by_rows, bool)
            and is_count(self.groups)
            and all(source[0] % self.groups == 0 for source in sources),
            f"cannot multiply {list(sources)}",
        )
        first, second = ((s[0] // self.groups, *s[1:]) for s in sources)
        rows, terms = LEFT[self.left]
        inner = second[int(self.by_rows)]
        whole = math.prod(first) == first[rows] * first[terms] and first[terms] == inner
        require(whole and math.prod(second) == inner * second[2], f"multiplies {list(sources)}")
        return first[rows], inner, second[2]

    @property
    def _makes_rows(self) -> bool:
        return self.left != "CW"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        m, _, j = self._sizes(sources)
        return (self.groups, m, j) if self._makes_rows else (self.groups * m, 1, j)

    def work(self, sources: Sequence[Shape]) -> int:
        m, k, j = self._sizes(sources)
        return 2 * self.groups * m * k * j

    def steps(self, site: Site) -> list[Step]:
        m, k, j = self._sizes(site.shapes)
        step = planes_step(kernels.MATMUL, site, self.shape)
        step.channels = self.shape[0]
        step.addend = site.inputs[1]
        step.size[:4] = self.groups, m, k, j
        rows, terms = LEFT[self.left]
        left = steps_of(site.inputs[0], site.shapes[0])
        step.from_[:3] = self._group(site, 0) * left[0], left[rows], left[terms]
        right, y = site.inputs[1], site.output
        made = y.pitch if self._makes_rows else y.plane
        step.to[:4] = (
            self._group(site, 1) * right.plane,
            right.pitch if self.by_rows else right.plane,
            self.shape[0] // self.groups * y.plane,
            made,
        )
        return [step]

    def _group(self, site: Site, index: int) -> int:
        """Channels of a group of an input."""
        return site.shapes[index][0] // self.groups


@dataclass(frozen=True)
class Attention(Plain):
    """softmax(scale * query . key + mask) . value, for each of ``heads``.

    Query, key and value are (heads * features, 1, tokens), of ``key_heads`` heads the latter two;
    the mask, if ``masked``, is (heads or 1, keys or 1, queries or 1). ``causal``: query i sees the
    keys up to i.
    """

    heads: int = 1
    key_heads: int = 1
    scale: float = 1.0
    causal: bool = False
    masked: bool = False

    type_name: ClassVar[str] = "Attention"

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        flags = isinstance(self.causal, bool) and isinstance(self.masked, bool)
        counts = is_count(self.heads, self.key_heads) and self.heads % self.key_heads == 0
        require(
            flags
            and counts
            and len(sources) == 3 + self.masked
            and all(len(source) == 3 for source in sources)
            and all(source[1] == 1 for source in sources[:3])
            and type(self.scale) in (int, float)
            and abs(self.scale) < 1e30,
            f"cannot attend to {list(sources)}",
        )
        query, key, value = sources[:3]
        require(
            query[0] % self.heads == 0
            and value[0] % self.key_heads == 0
            and query[0] // self.heads * self.key_heads == key[0]
            and key[2] == value[2],
            f"cannot attend to {list(sources)}",
        )
        if self.masked:
            full = (self.heads, key[2], query[2])
            fits = all(n in (1, m) for n, m in zip(sources[3], full, strict=True))
            require(fits, f"has a mask of {sources[3]} for {full}")
        return (value[0] // self.key_heads * self.heads, 1, query[2])

    def work(self, sources: Sequence[Shape]) -> int:
        query, key, value = sources[:3]
        features = query[0] // self.heads + value[0] // self.key_heads
        return 2 * self.heads * query[2] * key[2] * (features + 4)

    def steps(self, site: Site) -> list[Step]:
        query, key, value = site.shapes[:3]
        step = planes_step(kernels.ATTENTION, site, self.shape)
        step.addend, step.extra = site.inputs[1:3]
        step.in_width, step.function = key[2], int(self.causal)
        step.size[:4] = (
            *(self.heads, self.key_heads),
            *(query[0] // self.heads, value[0] // self.key_heads),
        )
        step.parameters[0] = self.scale
        if self.masked:
            mask: View = site.inputs[3]
            steps = steps_of(mask, site.shapes[3])
            step.mask = mask
            step.from_[:3] = [
                step_ if n > 1 else 0 for n, step_ in zip(site.shapes[3], steps, strict=True)
            ]
        return [step]
