"""Pruning and fewer bits together: the rows of a study as if its files held rounded weights."""

import dataclasses
from collections.abc import Mapping, Sequence

from billhook.study.records.rows import RunRow

__all__ = ["FULL", "rounded"]

#: The values that networks are trained in.
FULL = "fp32"


def rounded(
    rows: Sequence[RunRow], lines: Sequence[Mapping[str, str]], metrics: Sequence[str]
) -> dict[str, list[RunRow]]:
    """For every kind of values the chosen rows with the bytes and test metrics of such files.

    Args:
        rows: of the study; as they are they are those of :data:`FULL`.
        lines: of ``values.csv``.
        metrics: the columns that are test metrics.

    Returns:
        The kinds in the order of the lines, :data:`FULL` first. Of a kind, only the arms, sizes
        and seeds that were measured.
    """
    chosen = {row.run: row for row in rows if row.chosen and not row.variant}
    kinds: dict[str, list[RunRow]] = {FULL: list(chosen.values())} if lines else {}
    for line in lines:
        row = chosen.get(line["run"])
        if row is not None:
            test = {name: float(line[name]) for name in metrics}
            stored = dataclasses.replace(row, bytes=int(line["bytes"]), test=test)
            kinds.setdefault(line["values"], []).append(stored)
    return kinds
