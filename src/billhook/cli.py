"""The command line: ``billhook inspect FILE`` and the others; each imports what it needs."""

from pathlib import Path
from typing import Annotated

import typer

import billhook
from billhook.study import commands

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help=billhook.__doc__)
app.add_typer(commands.app, name="study")


def _print_version(wanted: bool) -> None:
    if wanted:
        from billhook import native

        kernels = "in use" if native.library() is not None else "absent (portable path in use)"
        typer.echo(f"billhook {billhook.__version__}, native kernels {kernels}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Prune PyTorch models while they train, store them small, run them fast on CPUs."""


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A billhook or safetensors file.")]) -> None:
    """Show what a file holds: tensor, shape, sparsity, nonzeros, coding, bytes."""
    from rich.console import Console

    Console().print(billhook.inspect(file))


def main() -> None:
    """Run the command line; an error of billhook's own ends it with one clear line."""
    try:
        app()
    except (billhook.BillhookError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error
