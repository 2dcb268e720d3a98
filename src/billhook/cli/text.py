"""``billhook text split``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Text of your own for studies of language models.")


@app.callback()
def _group() -> None:
    """Text of your own for studies of language models."""


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="A UTF-8 text, one sentence per line.")],
    folder: Annotated[Path, typer.Argument(help="Where the three files go.")],
    *,
    valid: Annotated[float, typer.Option(help="Share of the lines to validate on.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the lines to test on.")] = 0.1,
) -> None:
    """Cut a text into NAME.train.txt, NAME.valid.txt and NAME.test.txt, block by block."""
    from billhook.data.split import split_text

    counts = split_text(source, folder, valid, test)
    lines = ", ".join(f"{count:,} to {name}" for name, count in counts.items())
    typer.echo(f"lines with text: {lines}; in {folder}")
