"""``billhook footprint``."""

from typing import Annotated

import typer

from billhook import storage_table
from billhook.render import terminal

__all__ = ["footprint_command"]


def footprint_command(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Functions of billhook.models or module:function, arguments as in "
            "'mobilenet_v1(width=0.5)'."
        ),
    ],
    sparsity: Annotated[
        list[float] | None, typer.Option(help="A sparsity; give it again for others.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Bytes of a pruned model: the paper's Tables 5 and 6, exact counts, and real files."""

    found = list(storage_table.rows(models, sparsity or storage_table.PAPER_SPARSITIES))
    if json:
        from json import dumps

        typer.echo(dumps(storage_table.as_json(found), indent=2))
    else:
        terminal().print(storage_table.as_table(found))
