"""``billhook convert``."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from billhook.cli.options import Json, print_json, tensor_data
from billhook.errors import ConfigurationError

if TYPE_CHECKING:
    from billhook.format.save_report import SaveReport

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
        bool, typer.Option("--keep-survivors", help="Keep weights that would round to zero.")
    ] = False,
    canonical_zeros: Annotated[
        bool,
        typer.Option(
            help="Write -0.0, which masking by multiplication leaves behind, as 0.0; "
            "--no-canonical-zeros keeps every bit."
        ),
    ] = True,
    masks: Annotated[
        Path | None, typer.Option(help="A file of torch.ao.pruning's masks by tensor name.")
    ] = None,
    json: Json = False,
) -> None:
    """Rewrite a checkpoint: other tools' masks applied, every tensor coded anew."""
    if os.path.realpath(source) == os.path.realpath(target) or (
        target.exists() and source.exists() and os.path.samefile(source, target)
    ):
        raise ConfigurationError(
            f"{source} and {target} are the same file: give another name to write to, so that the "
            "checkpoint is still there if the result is not what you want"
        )
    from billhook.format import save
    from billhook.format.interchange import read, read_metadata
    from billhook.render import terminal

    report = save(
        read(source, masks),
        target,
        encoding=encoding,
        values=values,
        keep_survivors=keep_survivors,
        canonical_zeros=canonical_zeros,
        metadata=read_metadata(source),
    )
    if json:
        print_json({"file": str(target)} | _data(report))
        return
    console = terminal()
    with console.capture() as text:
        console.print(report)
    typer.echo(_as_options(text.get()), nl=False)


def _data(report: "SaveReport") -> dict[str, Any]:
    return {
        "bytes": report.stored_bytes,
        "dense_bytes": report.dense_bytes,
        "floor_bytes": report.floor_bytes,
        "lost": report.lost,
        "negative_zeros": report.negative_zeros,
        "tensors": [tensor_data(each) for each in report.tensors],
    }


def _as_options(text: str) -> str:
    """Keyword arguments in a hint of the library, as options of this command.

    >>> _as_options("keep_survivors=True keeps them")
    '--keep-survivors keeps them'
    """
    names = "canonical_zeros|keep_survivors"
    return re.sub(rf"\b({names})=True\b", lambda m: "--" + m[1].replace("_", "-"), text)
