"""``billhook inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import Json, print_json, tensor_data

__all__ = ["inspect_command"]


def inspect_command(
    file: Annotated[Path, typer.Argument(help="A billhook or safetensors file.")],
    json: Json = False,
) -> None:
    """Show what a file holds: tensor, shape, sparsity, nonzeros, coding, bytes."""
    from billhook.format import inspect
    from billhook.render import terminal

    shown = inspect(file)
    if json:
        tensors = [tensor_data(each) for each in shown.tensors]
        print_json({"file": str(file), "bytes": shown.nbytes, "tensors": tensors})
    else:
        terminal().print(shown)
