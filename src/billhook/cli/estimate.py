"""``billhook estimate``."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import Json, Model, Sparsities, Vocabulary, find_modules_here, print_json

__all__ = ["estimate_command"]


def estimate_command(
    model: Model,
    shape: Annotated[str, typer.Option("--input", help="Its input's sides, as in 1,3,224,224.")],
    *,
    sparsity: Sparsities = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="A billhook or safetensors file with trained weights; else random ones."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="With trained weights: a folder of pictures, or of text where there is a "
            "--vocabulary, whose test part is evaluated after pruning without any training."
        ),
    ] = None,
    vocabulary: Vocabulary = None,
    threads: Annotated[int, typer.Option(min=1, help="Of every measurement.")] = 1,
    json: Json = False,
) -> None:
    """What pruning would give before anyone trains: bytes, milliseconds, one-shot accuracy.

    The smallest weights of every layer are zeroed at once, without training. Training while
    sparsity rises recovers much of the accuracy that is lost here.

    billhook estimate mine:network --weights trained.safetensors --input 1,3,32,32
    --sparsity 0.8 --sparsity 0.9 --data DIR
    """
    from billhook.bench.memory import with_steady_memory

    with_steady_memory()
    from billhook.cli.bodies.estimate import as_table, estimate
    from billhook.render import terminal

    find_modules_here()
    logging.getLogger("billhook").setLevel(logging.WARNING)  # not the same selection every time
    rows = estimate(
        model,
        shape,
        sparsity or [0.5, 0.8, 0.9, 0.95],
        weights=weights,
        data=data,
        vocabulary=vocabulary,
        threads=threads,
    )
    if json:
        print_json({"model": model, "rows": [row.to_dict() for row in rows]})
    else:
        terminal().print(as_table(model, rows))
