"""What rich would print, as plain text: the ``str`` of every report."""

from rich.console import Console, RenderableType

__all__ = ["as_text"]


def as_text(value: RenderableType) -> str:
    """``value`` rendered without colours, at most 120 columns wide.

    >>> print(as_text("[bold]plain[/bold] text"))
    plain text
    """
    console = Console(width=120, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(value)
    return capture.get().rstrip("\n")
