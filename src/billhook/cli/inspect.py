"""``billhook inspect``."""

from pathlib import Path
from typing import Annotated

import typer

import billhook
from billhook.render import terminal

__all__ = ["inspect_command"]


def inspect_command(
    file: Annotated[Path, typer.Argument(help="A billhook or safetensors file.")],
) -> None:
    """Show what a file holds: tensor, shape, sparsity, nonzeros, coding, bytes."""

    terminal().print(billhook.inspect(file))
