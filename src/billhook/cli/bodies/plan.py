"""The body of ``billhook plan``: a recipe's run, or the user's own, planned without training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from billhook.errors import ConfigurationError
from billhook.named_model import build_model, named_function, parse_call
from billhook.plan import Plan
from billhook.plan import plan as dry_run
from billhook.schedule import Cubic

__all__ = ["of_own_run", "of_recipe", "refuse"]


def refuse(options: Mapping[str, object], reason: str) -> None:
    """Options of the other kind of plan, which would have no effect.

    Raises:
        ConfigurationError: one of them is given.

    >>> refuse({"data": None, "steps_per_epoch": None}, "belongs to a recipe's run")
    """
    for name, value in options.items():
        if value is not None:
            raise ConfigurationError(
                f"--{name.replace('_', '-')} {value} {reason}, or leave it out"
            )


def of_recipe(
    target: str | None,
    recipe_name: str,
    sparsity: float,
    *,
    begin: int | None = None,
    end: int | None = None,
    data: Path | None = None,
    steps_per_epoch: int | None = None,
) -> Plan:
    """What ``billhook train`` would do with a recipe.

    Args:
        target: the family, arguments of its model in parentheses.
        recipe_name: "paper", "laptop" or a TOML file: learning rate, length, window.
        sparsity: the final one.
        begin: first pruning step in place of the recipe's.
        end: last pruning step in place of the recipe's.
        data: folder of the data set; the embedded one for None.
        steps_per_epoch: with it, no data are looked at.

    Raises:
        ConfigurationError: no target, no such recipe, a window that does not fit the run.

    >>> found = of_recipe("mobilenet_v1(width=0.5)", "paper", 0.9, steps_per_epoch=20_018)
    >>> found.steps, len(found.updates), found.warnings
    (2402160, 201, ())
    """
    from billhook.tasks.build import build_task
    from billhook.tasks.recipe import load_recipe
    from billhook.training.loop import Sparsity, pruning_schedule

    if target is None:
        raise ConfigurationError(
            "nothing to plan: give a family such as mobilenet_v1, or your own run's "
            "--learning-rate, --steps, --begin and --end"
        )
    if ":" in target.partition("(")[0]:
        raise ConfigurationError(
            f"{target!r} is a network of your own, which has no recipe: describe its run with "
            "--learning-rate, --steps, --begin and --end"
        )
    family, arguments = parse_call(target)
    recipe = load_recipe(family, recipe_name).changed(model=arguments)
    if steps_per_epoch is None:
        task = build_task(recipe, data)
        model, per_epoch = task.model, task.steps_per_epoch
    else:
        values = ", ".join(f"{key}={value!r}" for key, value in recipe.model.items())
        model, per_epoch = build_model(f"{family}({values})"), steps_per_epoch
    total = recipe.total_steps(per_epoch)
    rules: Any = model.prune_rules
    return dry_run(
        pruning_schedule(recipe, Sparsity(sparsity, begin, end), total),
        lambda step: recipe.learning_rate(step, per_epoch),
        total,
        model=model,
        rules=rules,
    )


def of_own_run(
    target: str | None,
    learning_rate: str,
    steps: int | None,
    sparsity: float,
    *,
    begin: int | None,
    end: int | None,
    frequency: int,
) -> Plan:
    """A training run that is not billhook's.

    Args:
        target: the model, a function of billhook.models or ``module:function``; None: no layers.
        learning_rate: a number, or ``module:function`` of the optimizer steps taken so far.
        steps: of the whole run.
        sparsity: the final one.
        begin: first pruning step.
        end: last pruning step.
        frequency: steps between mask updates.

    Raises:
        ConfigurationError: a number is missing, or the model or learning rate cannot be found.

    >>> found = of_own_run(None, "0.1", 1_000, 0.9, begin=100, end=600, frequency=100)
    >>> found.steps, len(found.updates), found.warnings
    (1000, 6, ())
    """
    if steps is None or begin is None or end is None:
        missing = [
            name
            for name, value in (("--steps", steps), ("--begin", begin), ("--end", end))
            if value is None
        ]
        raise ConfigurationError(f"--learning-rate plans your own run: give {missing[0]} too")
    model = None if target is None else build_model(target)
    return dry_run(
        Cubic(sparsity, begin, end, frequency=frequency),
        _rate(learning_rate),
        steps,
        model=model,
        rules=getattr(model, "prune_rules", None),
    )


def _rate(source: str) -> float | Callable[[int], float]:
    try:
        return float(source)
    except ValueError:
        return named_function(source)
