"""What is kept of a study: ``rows.csv``, ``curves.csv`` and ``layers.csv``, small and for good.

They grow by a group of trials at a time, once all of the group are settled and the chosen one is
measured on test data. A trial that has a row needs no run any more, nor the folder of its run.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from billhook.atomic import remove_leftovers, write_text
from billhook.errors import FormatError
from billhook.study.records.details import (
    Line,
    as_csv,
    curve_lines,
    layer_lines,
    read_curves,
    read_layers,
)
from billhook.study.records.lock import locked
from billhook.study.records.rows import RunRow, parse_rows, rows_as_csv

__all__ = ["Records"]


@dataclasses.dataclass(frozen=True)
class Records:
    """The records in the results folder at ``folder``. Safe to use from many processes at once."""

    folder: Path

    def by_run(self) -> Mapping[str, RunRow]:
        """The rows so far by the identity of their runs, in the order of the plan."""
        path = self.folder / "rows.csv"
        try:
            state = path.stat()
        except FileNotFoundError:
            return {}
        return _parsed(path, state.st_ino, state.st_mtime_ns, state.st_size)

    def rows(self) -> list[RunRow]:
        """The rows so far, in the order of the plan."""
        return list(self.by_run().values())

    def add(self, rows: Iterable[RunRow], order: Sequence[str]) -> bool:
        """Record ``rows``, and curves and layers of the chosen ones, from their runs.

        Args:
            rows: all of their groups; they replace what is recorded of the same runs.
            order: the identities of the whole plan.

        Returns:
            False if another process was recording: nothing is done, ask again.
        """
        new = {row.run: row for row in rows}
        place = {run: index for index, run in enumerate(order)}
        return self._change(
            lambda known: sorted((known | new).values(), key=lambda row: place[row.run]), new
        )

    def drop(self, runs: Collection[str]) -> bool:
        """Forget these runs; False as of :meth:`add`."""
        return self._change(lambda known: [row for run, row in known.items() if run not in runs])

    def _change(
        self, change: Callable[[dict[str, RunRow]], list[RunRow]], new: Collection[str] = ()
    ) -> bool:
        runs = self.folder / "runs"
        runs.mkdir(exist_ok=True)
        with locked(runs / "lock") as mine:
            if not mine:
                return False
            remove_leftovers(self.folder, _FILES)
            rows = change(dict(self.by_run()))
            chosen = [row.run for row in rows if row.chosen]
            for name, lines_of, read in (
                ("curves.csv", curve_lines, read_curves),
                ("layers.csv", layer_lines, read_layers),
            ):
                lines = _by_run(read(self.folder))
                for run in chosen:
                    if run in new and run not in lines:
                        lines[run] = lines_of(runs / run)
                text = as_csv([line for run in chosen for line in lines.get(run, ())])
                write_text(self.folder / name, text)
            write_text(self.folder / "rows.csv", rows_as_csv(rows))  # last: now they count
        return True


_FILES = "rows.csv", "curves.csv", "layers.csv"


def _by_run(lines: Iterable[dict[str, str]]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["run"], []).append(line)
    return found


@functools.lru_cache(2)
def _parsed(path: Path, *state: int) -> Mapping[str, RunRow]:  # noqa: ARG001 - of the file it is
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text ({error}): restore it, or delete it") from None
    return {row.run: row for row in parse_rows(text, str(path))}
