"""``billhook sensitivity``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import (
    FAMILIES,
    Json,
    Model,
    Plot,
    Sparsities,
    find_modules_here,
    print_json,
)

__all__ = ["sensitivity_command"]

Data = Annotated[
    Path | None,
    typer.Option(
        help=f"In place of --evaluate, for {', '.join(FAMILIES[:-1])} and {FAMILIES[-1]}: a "
        "folder of data; the metric is the family's own on the validation part."
    ),
]

Weights = Annotated[
    Path | None, typer.Option(help="The trained weights, unless the function loads them.")
]


def sensitivity_command(
    model: Model,
    *,
    evaluate: Annotated[
        str | None, typer.Option(help="module:function of the model that returns its metric.")
    ] = None,
    data: Data = None,
    metric: Annotated[
        str | None, typer.Option(help="With --data: which of the family's metrics; its first.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="With --data: how data are read: paper, laptop, or a .toml file.")
    ] = "laptop",
    weights: Weights = None,
    sparsity: Sparsities = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Print rules for a metric that is no more than this much worse."),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="The metric is a loss or a perplexity.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="Where results are kept, to continue after a stop.")
    ] = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Measure what pruning each tensor by itself costs, without training.

    billhook sensitivity mine:network --evaluate mine:accuracy --weights trained.safetensors

    billhook sensitivity 'mobilenet_v1(width=0.5)' --data DIR --weights model.billhook.safetensors
    """
    find_modules_here()
    from billhook.cli.bodies.sensitivity import measured
    from billhook.render import terminal
    from billhook.scan import SPARSITIES, sensitivity

    of = measured(
        model,
        evaluate,
        data,
        weights,
        recipe=recipe,
        metric=metric,
        lower_is_better=lower_is_better,
    )
    scan = sensitivity(of.network, of.evaluate, sparsity or SPARSITIES, file=file, metric=of.name)
    if plot is not None:
        scan.plot(plot)
    rules = None
    if tolerance is not None:
        rules = scan.rules(tolerance, higher_is_better=of.higher_is_better)
    if json:
        print_json({"dense": scan.dense, "metrics": scan.metrics, "rules": rules})
        return
    terminal().print(scan)
    if rules is not None:
        terminal().print(f"rules = {rules!r}")
