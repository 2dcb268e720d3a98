"""``billhook train``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import FAMILIES, Begin, Data, Device, End, Sparsity
from billhook.errors import ConfigurationError

__all__ = ["train_command"]

Family = Annotated[
    str,
    typer.Argument(
        help=f"{', '.join(FAMILIES[:-1])} or {FAMILIES[-1]}.", autocompletion=lambda: FAMILIES
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; resumes what is there.")]
Scheme = Annotated[
    str,
    typer.Option(
        help="standard (every layer alike), layerwise (one by one), global, lamp, erdos-renyi "
        "or erdos-renyi-kernel."
    ),
]
Init = Annotated[
    Path | None, typer.Option(help="Start from these weights: .safetensors, or a checkpoint.")
]
Teacher = Annotated[
    Path | None,
    typer.Option(help="Learn from these weights of the same model too: a file, as for --init."),
]
Bf16 = Annotated[
    bool, typer.Option("--bf16", help="Compute in bfloat16, as a recipe's bf16 = true.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="One step of the full model on noise; its time and memory."),
]


def train_command(
    model: Family,
    *,
    data: Data = None,
    recipe: Annotated[str, typer.Option(help="paper, laptop, or a .toml file.")] = "laptop",
    out: Out = None,
    sparsity: Sparsity = None,
    begin: Begin = None,
    end: End = None,
    scheme: Scheme = "standard",
    init: Init = None,
    teacher: Teacher = None,
    width: Annotated[
        float | None, typer.Option(help="mobilenet_v1: a share of the channels.")
    ] = None,
    depth_multiplier: Annotated[
        float | None, typer.Option(help="inception_v3: a share of the channels.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="ptb_lstm: small, medium, large.")] = None,
    hidden: Annotated[int | None, typer.Option(help="ptb_lstm: units, in place of size.")] = None,
    units: Annotated[int | None, typer.Option(help="gnmt: units in a layer.")] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, data order and dropout.")] = 0,
    bf16: Bf16 = False,
    device: Device = "auto",
    stop_after: Annotated[int | None, typer.Option(help="Stop at this step; resume later.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Train a model of the paper, dense or pruned while it trains.

    The run's folder gets checkpoints; the same command again continues it, and it then ends as if
    it had never stopped. Ctrl-C stops it with a checkpoint. Several devices:
    `accelerate launch -m billhook train ...`.
    """
    from billhook.cli.bodies import train as body

    given = {
        "width": width,
        "depth_multiplier": depth_multiplier,
        "size": size,
        "hidden": hidden,
        "units": units,
    }
    chosen = body.chosen_recipe(model, recipe, given, epochs, seed)
    if bf16:
        chosen = chosen.changed(training={"bf16": True})
    if teacher is not None:
        chosen = chosen.changed(distillation={"teacher": str(teacher)})
    if dry_run:
        body.dry_run(chosen, sparsity, device)
        return
    if sparsity is None and (begin is not None or end is not None):
        raise ConfigurationError("--begin and --end are the pruning window: give --sparsity too")
    name = f"{model}-{'dense' if sparsity is None else f's{sparsity:g}'}-seed{seed}"
    body.run(
        chosen,
        data,
        out or Path("runs") / name,
        sparsity=body.target(sparsity, begin, end, scheme),
        init=init,
        device=device,
        stop_after=stop_after,
    )
