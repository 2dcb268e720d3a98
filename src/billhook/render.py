"""The console of commands, tables that fit any terminal, and rich objects as plain text."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from rich import table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.text import Text

__all__ = ["Table", "as_text", "printable", "terminal"]


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal would obey instead of showing it: control
    characters, and those that turn the direction of writing. Line ends stay.

    Names come from files of strangers; see :class:`Table` for those in tables.

    >>> print(printable(chr(27) + "[31mred"), printable("é 漢"))
    \\x1b[31mred é 漢
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def terminal(*, quiet: bool = False) -> Console:
    """The console of a command: as wide as its terminal.

    Output to a file or a pipe is 160 columns wide unless the variable COLUMNS says otherwise, so
    that tables and lines stay whole there.
    """
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=160 if wide else None, quiet=quiet)


def as_text(value: RenderableType) -> str:
    """``value`` rendered without colours, at most 120 columns wide.

    >>> print(as_text("[bold]plain[/bold] text"))
    plain text
    """
    console = Console(width=120, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(value)
    return capture.get().rstrip("\n")


@dataclasses.dataclass(frozen=True)
class Table:
    """Headings and rows of text, whole in any terminal.

    Columns that do not fit side by side continue in further blocks below, each of which repeats the
    first ``keys`` columns. Only text too long for such a block is folded. Numbers align right.
    Brackets are not markup, and what a terminal would obey is escaped, line ends in a cell as well:
    names come from files of strangers.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = dataclasses.replace(
            self, headings=_cells(self.headings), rows=[_cells(row) for row in self.rows]
        )
        yield Text(printable(self.title), style="bold")
        yield from shown._render(options)

    def _render(self, options: ConsoleOptions) -> RenderResult:
        for widths in self._blocks(options.max_width):
            block = table.Table()
            for column, width in widths.items():
                text = any(row[column][:1].isalpha() for row in self.rows)
                justify: JustifyMethod = "left" if text else "right"
                heading = Text(self.headings[column])
                block.add_column(heading, justify=justify, overflow="fold", width=width)
            for row in self.rows:
                block.add_row(*(Text(row[column]) for column in widths))
            yield block

    def _blocks(self, room: int) -> Iterator[dict[int, int]]:
        """The width of each column that goes into a block, block by block."""
        columns = list(zip(self.headings, *self.rows, strict=True))
        whole = [max(map(cell_len, column)) for column in columns]
        if _drawn(whole) <= room:
            yield dict(enumerate(whole))
            return
        narrow = [
            max(map(cell_len, (*heading.split(), *cells)), default=0) for heading, *cells in columns
        ]
        half = room // 2
        first = dict(enumerate(narrow[: self.keys]))
        if _drawn(first.values()) > half:
            share = max(1, half // self.keys - 3)
            first = {column: min(width, share) for column, width in first.items()}
        rest = max(1, room - _drawn([*first.values(), 0]))
        block = dict(first)
        for column in range(self.keys, len(narrow)):
            width = min(narrow[column], rest)
            if _drawn([*block.values(), width]) > room and len(block) > self.keys:
                yield block
                block = dict(first)
            block[column] = width
        yield block


def _cells(row: Sequence[str]) -> list[str]:
    return [printable(cell).replace("\n", "\\n") for cell in row]


def _drawn(widths: Iterable[int]) -> int:
    """Columns of the terminal that a table of these widths takes, with padding and lines."""
    return sum(width + 3 for width in widths) + 1
