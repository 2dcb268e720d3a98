"""``billhook plan``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billhook.cli.options import (
    Begin,
    Data,
    End,
    Json,
    Plot,
    Sparsity,
    find_modules_here,
    print_json,
)

if TYPE_CHECKING:
    from billhook.plan import Plan

__all__ = ["plan_command"]


def plan_command(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A family with a recipe, as in 'mobilenet_v1(width=0.5)'; with --learning-rate "
            "any module:function, for its layers."
        ),
    ] = None,
    *,
    sparsity: Sparsity = 0.9,
    begin: Begin = None,
    end: End = None,
    recipe: Annotated[
        str | None, typer.Option(help="paper, laptop (unless given), or a .toml file.")
    ] = None,
    data: Data = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(help="In place of data: a recipe's steps in an epoch.")
    ] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(help="Your own run's: a number, or module:function of the steps taken."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Your own run's optimizer steps.")] = None,
    frequency: Annotated[
        int | None, typer.Option(help="Your own run's steps between updates; 100 unless given.")
    ] = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Pruning against the learning rate before anything is trained (the paper's Fig. 2a).

    billhook plan 'ptb_lstm(size="small")' --recipe paper --data DIR

    billhook plan --learning-rate mine:rate --steps 20000 --begin 2000 --end 14000
    """
    from billhook.cli.bodies.plan import of_own_run, of_recipe, refuse
    from billhook.render import terminal

    assert sparsity is not None
    find_modules_here()
    window: dict[str, Any] = {"begin": begin, "end": end}
    of_recipes: dict[str, Any] = {"data": data, "steps_per_epoch": steps_per_epoch}
    if learning_rate is None:
        own = {"steps": steps, "frequency": frequency}
        refuse(own, "belongs to a run of your own: give --learning-rate too")
        planned = of_recipe(model, recipe or "laptop", sparsity, **window, **of_recipes)
    else:
        given = {"recipe": recipe} | of_recipes
        refuse(given, "belongs to a recipe's run: leave out --learning-rate")
        every = 100 if frequency is None else frequency
        planned = of_own_run(model, learning_rate, steps, sparsity, **window, frequency=every)
    if plot is not None:
        planned.plot(plot)
    if json:
        print_json(_data(planned))
    else:
        terminal().print(planned)


def _data(planned: "Plan") -> dict[str, Any]:
    keys = "step", "sparsity", "learning_rate"
    return {
        "steps": planned.steps,
        "schedule": repr(planned.schedule),
        "updates": [dict(zip(keys, update, strict=True)) for update in planned.updates],
        "warnings": list(planned.warnings),
        "suggestion": planned.suggestion,
    }
