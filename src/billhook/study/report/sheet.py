"""One table, shown in a terminal, in Markdown, on a page, or as CSV."""

import csv
import io

from billhook.render import Table

__all__ = ["Sheet", "escaped"]


def escaped(text: str) -> str:
    """``text`` as one line of Markdown that shows it and does nothing else: what a results folder
    says is a stranger's, and Markdown lets HTML, links and pictures through.

    >>> print(escaped("<img src=x> [a](b) `c` x|y"))
    &lt;img src=x&gt; \\[a\\](b) \\`c\\` x\\|y
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join("".join(f"\\{c}" if c in "\\`[]|" else c for c in text).splitlines())


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
            "| " + " | ".join(escaped(cell) for cell in line) + " |"
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
