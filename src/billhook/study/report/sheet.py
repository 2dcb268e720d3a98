"""One table, shown in a terminal, in Markdown, on a page, or as CSV."""

import csv
import io

from billhook.render import Table

__all__ = ["Sheet"]


class Sheet(Table):
    """A table that is also Markdown and CSV.

    >>> print(Sheet("sizes", ("file", "bytes"), (("a", "12"),)).markdown())
    | file | bytes |
    |---:|---:|
    | a | 12 |
    """

    def markdown(self) -> str:
        """For a page; without the title."""
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
            for line in (self.headings, *self.rows)
        ]
        return "\n".join([lines[0], "|" + "---:|" * len(self.headings), *lines[1:]])

    def csv(self) -> str:
        """As CSV, the cells as they are shown.

        >>> Sheet("sizes", ("file", "bytes"), (("a", "1,200"),)).csv()
        'file,bytes\\na,"1,200"\\n'
        """
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.headings, *self.rows])
        return text.getvalue()
