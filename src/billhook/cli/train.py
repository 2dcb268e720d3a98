"""``billhook train``: the body of the command, and nothing that a library user needs."""

import json
import resource
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from billhook.atomic import replacing
from billhook.errors import ConfigurationError
from billhook.format import load
from billhook.render import terminal
from billhook.tasks.recipe import Recipe, load_recipe
from billhook.training.loop import MODEL_FILE, SCHEMES, Sparsity

__all__ = ["train_command"]

# Arguments of a model family that the command line can set.
MODEL_OPTIONS = {
    "mobilenet_v1": ("width",),
    "inception_v3": ("depth_multiplier",),
    "ptb_lstm": ("size", "hidden"),
    "gnmt": ("units",),
}


def train_command(
    model: Annotated[str, typer.Argument(help="mobilenet_v1, inception_v3, ptb_lstm or gnmt")],
    *,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set; without it an embedded one")
    ] = None,
    recipe: Annotated[str, typer.Option(help="paper, laptop, or a .toml file")] = "laptop",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; resumes what is there")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Prune to this, e.g. 0.9")] = None,
    begin: Annotated[int | None, typer.Option(help="First pruning step")] = None,
    end: Annotated[int | None, typer.Option(help="Last pruning step")] = None,
    scheme: Annotated[
        str, typer.Option(help="standard (every layer alike), layerwise (one by one) or global")
    ] = "standard",
    init: Annotated[
        Path | None, typer.Option(help="Start from these weights: .safetensors, or a checkpoint")
    ] = None,
    width: Annotated[float | None, typer.Option(help="mobilenet_v1")] = None,
    depth_multiplier: Annotated[float | None, typer.Option(help="inception_v3")] = None,
    size: Annotated[str | None, typer.Option(help="ptb_lstm: small, medium, large")] = None,
    hidden: Annotated[int | None, typer.Option(help="ptb_lstm: units, in place of size")] = None,
    units: Annotated[int | None, typer.Option(help="gnmt")] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, data order, dropout")] = 0,
    bf16: Annotated[
        bool, typer.Option(help="Compute in bfloat16, as a recipe's bf16 = true")
    ] = False,
    stop_after: Annotated[int | None, typer.Option(help="Stop at this step; resume later")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="One step of the full model on noise; time and memory")
    ] = False,
) -> None:
    """Train a model of the paper, dense or pruned while it trains.

    The run's folder gets checkpoints; the same command again continues it, and it then ends as if
    it had never stopped. Several devices: `accelerate launch -m billhook train ...`.
    """
    given = {
        "width": width,
        "depth_multiplier": depth_multiplier,
        "size": size,
        "hidden": hidden,
        "units": units,
    }
    chosen = _chosen_recipe(model, recipe, given, epochs, seed)
    if bf16:
        chosen = chosen.changed(training={"bf16": True})
    if dry_run:
        _dry_run(chosen, sparsity)
        return
    if sparsity is None and (begin is not None or end is not None):
        raise ConfigurationError("--begin and --end are the pruning window: give --sparsity too")
    name = f"{model}-{'dense' if sparsity is None else f's{sparsity:g}'}-seed{seed}"
    if scheme not in SCHEMES:
        raise ConfigurationError(f"--scheme {scheme!r} is none of {', '.join(SCHEMES)}")
    target = None if sparsity is None else Sparsity(sparsity, begin, end, SCHEMES[scheme])
    _run(
        chosen,
        data,
        out or Path("runs") / name,
        sparsity=target,
        init=init,
        stop_after=stop_after,
    )


def _chosen_recipe(
    model: str, name: str, given: dict[str, Any], epochs: float | None, seed: int
) -> Recipe:
    if model not in MODEL_OPTIONS:
        raise ConfigurationError(f"model {model!r} is none of {', '.join(MODEL_OPTIONS)}")
    arguments = {key: value for key, value in given.items() if value is not None}
    foreign = sorted(set(arguments) - set(MODEL_OPTIONS[model]))
    if foreign:
        option = foreign[0].replace("_", "-")
        raise ConfigurationError(f"--{option} is no option of {model}: leave it out")
    for one, other in (("hidden", "size"), ("size", "hidden")):
        if one in arguments:  # in place of what the recipe says
            arguments.setdefault(other, None)
    training: dict[str, Any] = {"seed": seed}
    if epochs is not None:
        training |= {"epochs": epochs, "steps": None}
    return load_recipe(model, name).changed(model=arguments, training=training)


def _run(
    recipe: Recipe,
    data: Path | None,
    out: Path,
    *,
    sparsity: Sparsity | None,
    init: Path | None,
    stop_after: int | None,
) -> None:
    from billhook.tasks.build import build_task
    from billhook.tasks.task import Shard
    from billhook.training.loop import test_metrics, train
    from billhook.training.precision import accelerator_for

    accelerator = accelerator_for(recipe)
    console = terminal(quiet=not accelerator.is_main_process)
    torch.manual_seed(recipe.training.seed)
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    task = build_task(recipe, data, shard)
    console.print(task.found)
    torch.manual_seed(recipe.training.seed + 1 + shard.rank)  # dropout of its own on every process
    if init is not None:
        _load_weights(task.model, init)
    result = train(
        task,
        recipe,
        out,
        sparsity=sparsity,
        accelerator=accelerator,
        console=console,
        stop_after=stop_after,
    )
    if result is None:
        console.print(f"stopped; the same command continues from {out / 'checkpoint.pt'}")
    else:
        accelerator.wait_for_everyone()
        result["test"] = test_metrics(task, out, accelerator.device)
        result["examples"] = task.examples(task.model)
        if accelerator.is_main_process:
            with replacing(out / "result.json") as file:
                file.write((json.dumps(result, indent=1) + "\n").encode())
        console.print(f"test: {result['test']}; {result['nonzero']:,} nonzero; {out / MODEL_FILE}")


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(_weights(path))
    except RuntimeError as error:
        raise ConfigurationError(f"--init {path} is of another model: {error}") from None


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """From a billhook or safetensors file, a saved state_dict, or a run's checkpoint."""
    if not path.is_file():
        raise ConfigurationError(
            f"--init {path} is no file: give a .safetensors file or a run's checkpoint.pt"
        )
    if path.suffix == ".safetensors":
        return load(path)
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded["model"] if "model" in loaded and "recipe" in loaded else loaded


def _dry_run(recipe: Recipe, sparsity: float | None) -> None:
    from billhook.tasks.build import synthetic_task
    from billhook.training.loop import Run
    from billhook.training.precision import accelerator_for

    console = terminal()
    started = time.monotonic()
    task = synthetic_task(recipe)
    target = None if sparsity is None else Sparsity(sparsity, 0, 1)
    accelerator = accelerator_for(recipe)
    run = Run(task, recipe.changed(training={"epochs": None, "steps": 2}), target, accelerator)
    built = time.monotonic()
    batch = next(task.batches(0, 0, run.accelerator.device))
    loss = float(run.train_step(batch))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # KB on Linux
    console.print(
        f"{recipe.family}: {sum(p.numel() for p in task.model.parameters()):,} parameters, "
        f"batch {recipe.training.batch_size}; built in {built - started:.1f} s, one step in "
        f"{time.monotonic() - built:.1f} s, loss {loss:.3f}, peak memory {peak:.2f} GB"
    )
