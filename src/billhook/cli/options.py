"""What several commands share: their options, where they look for modules, how they print JSON."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from billhook.errors import ConfigurationError

if TYPE_CHECKING:
    from billhook.format.summary import TensorSummary

__all__ = [
    "FAMILIES",
    "Begin",
    "Data",
    "Device",
    "End",
    "Json",
    "Model",
    "Plot",
    "RequiredSparsity",
    "Sparsities",
    "Sparsity",
    "Vocabulary",
    "find_modules_here",
    "print_json",
    "tensor_data",
]

#: The model families that have recipes.
FAMILIES = ("mobilenet_v1", "inception_v3", "ptb_lstm", "gnmt")


def _share(value: float | list[float] | None) -> float | list[float] | None:
    for each in value if isinstance(value, list) else [value]:
        if each is not None and not 0 <= each <= 1:
            percent = f": for {each:g}% write {each / 100:g}" if 1 < each <= 100 else ""
            raise ConfigurationError(f"--sparsity {each:g} is not a share between 0 and 1{percent}")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Model = Annotated[
    str,
    typer.Argument(
        help="A function of billhook.models or module:function, arguments in parentheses, as in "
        "'mobilenet_v1(width=0.5)'."
    ),
]
Data = Annotated[
    Path | None, typer.Option(help="Folder of the data set; without it the family's embedded one.")
]
Begin = Annotated[int | None, typer.Option(help="First pruning step.")]
End = Annotated[int | None, typer.Option(help="Last pruning step.")]
Plot = Annotated[Path | None, typer.Option(help="A chart to draw: .png, .svg or .html.")]
Vocabulary = Annotated[int | None, typer.Option(help="The input holds integers below this.")]
Device = Annotated[
    str,
    typer.Option(
        help="The device that trains: auto (an accelerator where there is one), cpu or cuda."
    ),
]
Sparsity = Annotated[
    float | None, typer.Option(callback=_share, help="A share of zeros, as in 0.9.")
]
RequiredSparsity = Annotated[
    float,
    typer.Option("--sparsity", callback=_share, help="A share of zeros, as in 0.9."),
]
Sparsities = Annotated[
    list[float] | None,
    typer.Option(callback=_share, help="A share of zeros, as in 0.9; repeat it for others."),
]


def find_modules_here() -> None:
    """Let ``module:function`` name a module in the folder where the command runs.

    The folder comes last on the path, so that nothing in it can take the place of an installed
    module. Only commands that are given such names call this.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def tensor_data(tensor: "TensorSummary") -> dict[str, Any]:
    """One tensor of a file, for JSON."""
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "elements": tensor.numel,
        "nonzero": tensor.nnz,
        "sparsity": tensor.sparsity,
        "coding": tensor.coding,
        "bytes": tensor.nbytes,
        "floor_bytes": tensor.floor_bytes,
    }
