"""The paper's points, for comparison with a study's; the numbers are in ``published.toml``."""

import dataclasses
import tomllib
from importlib import resources
from typing import Any

__all__ = ["PublishedPoint", "PublishedTable", "published_storage", "published_table"]


@dataclasses.dataclass(frozen=True)
class PublishedPoint:
    """One line of a table; ``nnz`` as printed, such as "0.46M"."""

    model: str
    width: float
    sparsity: float
    nnz: str
    metrics: dict[str, float]

    @property
    def nonzero(self) -> int:
        """``nnz`` as a number."""
        return round(float(self.nnz.removesuffix("M")) * 1e6)


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A family's table; ``metric`` is the one that the paper plots."""

    number: int
    family: str
    data: str
    metric: str
    points: tuple[PublishedPoint, ...]


def published_table(family: str) -> PublishedTable | None:
    """The table of a family; None for one that is not in the paper.

    >>> table = published_table("mobilenet_v1")
    >>> point = table.points[-2]
    >>> table.number, point.sparsity, point.nonzero, point.metrics["top1"]
    (2, 0.9, 460000, 61.8)
    """
    for number, table in _published()["tables"].items():
        if table["family"] == family:
            points = tuple(_point(dict(point)) for point in table.pop("points"))
            return PublishedTable(int(number), points=points, **table)
    return None


def published_storage(family: str) -> list[dict[str, float]]:
    """Tables 5 and 6: width, sparsity, and MB of mask, index and total; none of other families."""
    storage = _published()["storage"]
    points: list[dict[str, float]] = storage["points"] if storage["family"] == family else []
    return points


def _published() -> dict[str, Any]:
    text = (resources.files("billhook.study") / "published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _point(values: dict[str, float | str]) -> PublishedPoint:
    model, nnz = str(values.pop("model")), str(values.pop("nnz"))
    width, sparsity = float(values.pop("width")), float(values.pop("sparsity"))
    return PublishedPoint(model, width, sparsity, nnz, {k: float(v) for k, v in values.items()})
