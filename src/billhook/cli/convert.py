"""``billhook convert``."""

from pathlib import Path
from typing import Annotated

import typer

import billhook
from billhook.format.interchange import read
from billhook.render import terminal

__all__ = ["convert_command"]


def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A billhook, safetensors or torch.save file; torch.nn.utils.prune, "
            "torch.ao.pruning and compressed-tensors' sparse-bitmask are understood."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    *,
    encoding: Annotated[
        str, typer.Option(help="auto, dense (plain safetensors), or the name of a coding.")
    ] = "auto",
    values: Annotated[
        str | None, typer.Option(help="Store weights as F32, F16, BF16 or I8.")
    ] = None,
    keep_survivors: Annotated[
        bool, typer.Option(help="Keep weights that would round to zero at one quantum.")
    ] = False,
    canonical_zeros: Annotated[bool, typer.Option(help="Write -0.0 as 0.0.")] = False,
    masks: Annotated[
        Path | None, typer.Option(help="A file of torch.ao.pruning's masks by tensor name.")
    ] = None,
) -> None:
    """Rewrite a checkpoint: other tools' masks applied, every tensor coded anew."""

    report = billhook.save(
        read(source, masks),
        target,
        encoding=encoding,
        values=values,
        keep_survivors=keep_survivors,
        canonical_zeros=canonical_zeros,
    )
    terminal().print(report)
