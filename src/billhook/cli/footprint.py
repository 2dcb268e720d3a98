"""``billhook footprint``."""

from typing import Annotated

import typer

from billhook.cli.options import Json, Sparsities, find_modules_here, print_json

__all__ = ["footprint_command"]


def footprint_command(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Functions of billhook.models or module:function, arguments as in "
            "'mobilenet_v1(width=0.5)'."
        ),
    ],
    sparsity: Sparsities = None,
    json: Json = False,
) -> None:
    """Bytes of a pruned model: the paper's Tables 5 and 6, exact counts, and real files."""
    from billhook import storage_table
    from billhook.render import terminal

    find_modules_here()
    rows = list(storage_table.rows(models, sparsity or storage_table.PAPER_SPARSITIES))
    if json:
        print_json(storage_table.as_json(rows))
    else:
        terminal().print(storage_table.as_table(rows))
