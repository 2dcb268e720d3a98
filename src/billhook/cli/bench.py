"""``billhook bench``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import Json, Sparsity, Vocabulary, find_modules_here, print_json

__all__ = ["bench_command"]


def bench_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A function of billhook.models or module:function, arguments in parentheses, as "
            "in 'mobilenet_v1(width=0.5)'; an ONNX file; or a file of a model that was compiled to "
            "one program."
        ),
    ],
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Its sides, as in 1,3,224,224; a program knows its own."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A billhook or safetensors file with the model's weights.")
    ] = None,
    sparsity: Sparsity = None,
    vocabulary: Vocabulary = None,
    *,
    threads: Annotated[int, typer.Option(min=1, help="For every form of the model.")] = 1,
    isa: Annotated[
        str,
        typer.Option(help="Hold every form to an instruction set, such as avx2.", metavar="NAME"),
    ] = "",
    json: Json = False,
) -> None:
    """Time a sparse model compiled, beside torch and others, and every layer of it.

    The weights come from --weights; or --sparsity zeroes that share of random ones.
    """
    from billhook.bench.held import with_held
    from billhook.bench.memory import with_steady_memory

    with_held(isa)
    with_steady_memory()
    from billhook.cli.bodies.bench import run

    find_modules_here()
    parts = run(
        model,
        shape,
        weights=weights,
        sparsity=sparsity,
        vocabulary=vocabulary,
        threads=threads,
    )
    if json:
        print_json({key: value for part in parts for key, value in part.to_dict().items()})
        return
    for part in parts:
        typer.echo(part)
