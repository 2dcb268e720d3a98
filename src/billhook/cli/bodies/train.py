"""What ``billhook train`` does, and nothing that a library user needs."""

import contextlib
import json
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from billhook.atomic import replacing
from billhook.errors import ConfigurationError, StateError
from billhook.render import terminal
from billhook.tasks.build import build_task, synthetic_task
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe, load_recipe
from billhook.tasks.task import Shard
from billhook.training.interrupt import stop_requests
from billhook.training.loop import MODEL_FILE, Run, Sparsity, test_metrics, train
from billhook.training.parts import SCHEMES
from billhook.training.precision import accelerator_for
from billhook.training.weights import load_weights

__all__ = ["chosen_recipe", "dry_run", "run", "target"]


def chosen_recipe(
    model: str, name: str, given: dict[str, Any], epochs: float | None, seed: int
) -> Recipe:
    """The family's recipe with what the command line says in place of its own values.

    Raises:
        ConfigurationError: no such family, or an option of another one.
    """
    if model not in FAMILIES:
        raise ConfigurationError(f"model {model!r} is not one of {', '.join(FAMILIES)}")
    arguments = {key: value for key, value in given.items() if value is not None}
    foreign = sorted(set(arguments) - set(FAMILIES[model].options))
    if foreign:
        option = foreign[0].replace("_", "-")
        raise ConfigurationError(f"--{option} is not an option of {model}: leave it out")
    for one, other in (("hidden", "size"), ("size", "hidden")):
        if one in arguments:  # in place of what the recipe says
            arguments.setdefault(other, None)
    training: dict[str, Any] = {"seed": seed}
    if epochs is not None:
        training |= {"epochs": epochs, "steps": None}
    return load_recipe(model, name).changed(model=arguments, training=training)


def target(
    sparsity: float | None, begin: int | None, end: int | None, scheme: str
) -> Sparsity | None:
    """What to prune to, if at all.

    Raises:
        ConfigurationError: no such scheme.
    """
    if scheme not in SCHEMES:
        raise ConfigurationError(f"--scheme {scheme!r} is not one of {', '.join(SCHEMES)}")
    return None if sparsity is None else Sparsity(sparsity, begin, end, SCHEMES[scheme])


def run(
    recipe: Recipe,
    data: Path | None,
    out: Path,
    *,
    sparsity: Sparsity | None,
    init: Path | None,
    device: str,
    stop_after: int | None,
) -> None:
    """Train in the folder ``out``, evaluate on test data, and say what came of it."""
    accelerator = accelerator_for(recipe, device)
    console = terminal(quiet=not accelerator.is_main_process)
    settings = _settings(recipe, data, sparsity, init)
    finished = out / "result.json"
    if finished.exists() and _is_finished(finished, settings):
        console.print(f"already finished: {finished}; give another --out to train again")
        return
    torch.manual_seed(recipe.training.seed)
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    task = build_task(recipe, data, shard)
    console.print(f"{task.data_description}; on {accelerator.device.type}")
    torch.manual_seed(recipe.training.seed + 1 + shard.rank)  # dropout of its own on every process
    if init is not None:
        load_weights(task.model, init, "--init")
    alone = accelerator.num_processes == 1  # several would stop at different steps
    with stop_requests() if alone else contextlib.nullcontext(lambda: False) as stop:
        result = train(
            task,
            recipe,
            out,
            sparsity=sparsity,
            accelerator=accelerator,
            console=console,
            stop_after=stop_after,
            stop=stop,
        )
        interrupted = stop()
    if result is None:
        console.print(
            f"stopped with a checkpoint; to go on: {_this_command()}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if interrupted:
            raise SystemExit(130)
        return
    accelerator.wait_for_everyone()
    result["test"] = test_metrics(task, out, accelerator.device)
    result["examples"] = task.examples(task.model)
    result["settings"] = settings
    if accelerator.is_main_process:
        with replacing(finished) as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())
    console.print(f"test: {result['test']}; {result['nonzero']:,} nonzero; {out / MODEL_FILE}")


def _settings(
    recipe: Recipe, data: Path | None, sparsity: Sparsity | None, init: Path | None
) -> dict[str, Any]:
    """What decides a run, as JSON holds it."""
    pruning = None
    if sparsity is not None:
        pruning = {
            "sparsity": sparsity.final,
            "begin": sparsity.begin_step,
            "end": sparsity.end_step,
            "scheme": next(name for name, each in SCHEMES.items() if each == sparsity.allocation),
        }
    return {
        "recipe": recipe.model_dump(mode="json"),
        "pruning": pruning,
        "data": None if data is None else data.name,
        "init": None if init is None else init.name,
    }


def _is_finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether this very run ended here; one killed before its last line is written did not.

    Raises:
        StateError: a run of other settings did, which must not be overwritten.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        before = result.get("settings") or {"recipe": result["recipe"]}
        for key, value in before.items():
            if value != settings[key]:
                raise StateError(
                    f"{path.parent} holds a finished run of other settings ({key}: "
                    f"{_difference(value, settings[key])}): give another --out"
                )
        return "settings" in result
    except (ValueError, LookupError, AttributeError) as error:
        raise StateError(
            f"{path} cannot be read as the result of a run ({error}): give another --out"
        ) from error


def _difference(before: Any, now: Any) -> str:
    """The first place where two settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return f"{key} {_difference(before.get(key), now.get(key))}"
    return f"was {before}, is now {now}"


def _this_command() -> str:
    return shlex.join(["billhook", *sys.argv[1:]])


def dry_run(recipe: Recipe, sparsity: float | None, device: str) -> None:
    """One step of the full model on noise: its time and memory."""
    console = terminal()
    started = time.monotonic()
    task = synthetic_task(recipe)
    pruned = None if sparsity is None else Sparsity(sparsity, 0, 1)
    accelerator = accelerator_for(recipe, device)
    run = Run(task, recipe.changed(training={"epochs": None, "steps": 2}), pruned, accelerator)
    built = time.monotonic()
    batch = next(task.batches(0, 0, run.accelerator.device))
    loss = float(run.train_step(batch))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # KB on Linux
    console.print(
        f"{recipe.family}: {sum(p.numel() for p in task.model.parameters()):,} parameters, "
        f"batch {recipe.training.batch_size}; on "
        f"{accelerator.device.type} built in {built - started:.1f} s, one step in "
        f"{time.monotonic() - built:.1f} s, loss {loss:.3f}, peak memory {peak:.2f} GB"
    )
