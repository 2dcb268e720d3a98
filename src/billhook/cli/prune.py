"""``billhook prune``."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from billhook.cli.options import Json, RequiredSparsity, print_json
from billhook.errors import ConfigurationError

__all__ = ["prune_command"]


def prune_command(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint: billhook, safetensors or torch.save.")
    ],
    *,
    sparsity: RequiredSparsity,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    block: Annotated[
        str | None, typer.Option(help="Prune blocks of ROWSxCOLUMNS weights, such as 8x1.")
    ] = None,
    nm: Annotated[str | None, typer.Option(help="Keep N of every M inputs, such as 2:4.")] = None,
    together: Annotated[
        bool, typer.Option("--global", help="Rank the weights of all tensors together.")
    ] = False,
    dense: Annotated[
        list[str] | None, typer.Option(help="A glob of tensor names to leave dense; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Prune a checkpoint at once, by magnitude, and write the smaller file.

    Pruned are all floating-point tensors of two or more dimensions. To prune while training, which
    loses less, use billhook.Pruner.
    """
    from billhook.allocation import Uniform
    from billhook.cli.bodies.prune import prune_file
    from billhook.global_ranking import Global
    from billhook.granularity import NM, Block, Granularity, Unstructured
    from billhook.render import terminal

    granularity: Granularity = Unstructured()
    if block is not None and nm is not None:
        raise ConfigurationError("--block and --nm are two granularities: give one of them")
    if block is not None:
        granularity = Block(*_two_numbers("--block", block, "x"))
    if nm is not None:
        granularity = NM(*_two_numbers("--nm", nm, ":"))
    pruned, saved = prune_file(
        source,
        out,
        sparsity,
        granularity=granularity,
        allocation=Global() if together else Uniform(),
        dense=dense or [],
    )
    if json:
        print_json(_data(pruned, out, saved.stored_bytes))
    else:
        terminal().print(pruned)
        terminal().print(saved)


def _two_numbers(option: str, text: str, between: str) -> tuple[int, int]:
    match = re.fullmatch(rf"(\d+){between}(\d+)", text)
    if match is None:
        raise ConfigurationError(
            f"{option} {text!r} is not two numbers with {between!r} between them, such as "
            f"{8 if between == 'x' else 2}{between}{1 if between == 'x' else 4}"
        )
    return int(match[1]), int(match[2])


def _data(pruned: Any, out: Path, size: int) -> dict[str, Any]:
    tensors = [
        {"name": each.name, "shape": list(each.shape), "nonzero": each.nonzero} for each in pruned
    ]
    return {"file": str(out), "bytes": size, "sparsity": pruned.sparsity, "tensors": tensors}
