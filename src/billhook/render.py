"""Where commands print, and what rich would print as plain text."""

import os
import sys

from rich.console import Console, RenderableType

__all__ = ["as_text", "terminal"]


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
