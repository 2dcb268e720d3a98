"""One table, shown in a terminal or in Markdown."""

import dataclasses

from rich.table import Table

__all__ = ["Sheet"]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A title, headings, and rows of text.

    >>> print(Sheet("sizes", ("file", "bytes"), (("a", "12"),)).markdown())
    | file | bytes |
    |---:|---:|
    | a | 12 |
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for heading in self.headings:
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page; without the title."""
        lines = [self.headings, ("---:",) * len(self.headings), *self.rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return text.replace("| ---: ", "|---:").replace("---: |", "---:|")
