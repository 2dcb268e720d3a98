"""``billhook sensitivity``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import Json, Plot, Sparsities, find_modules_here, print_json
from billhook.errors import ConfigurationError

__all__ = ["sensitivity_command"]


def sensitivity_command(
    model: Annotated[
        str,
        typer.Argument(
            help="module:function or a function of billhook.models, arguments in parentheses."
        ),
    ],
    *,
    evaluate: Annotated[
        str | None, typer.Option(help="module:function of the model that returns its metric.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="In place of --evaluate, for mobilenet_v1, inception_v3, ptb_lstm and gnmt: a "
            "folder of data; the metric is the family's own on the validation part."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="With --data: which of the family's metrics; its first.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="With --data: how data are read: paper, laptop, or a .toml file.")
    ] = "laptop",
    weights: Annotated[
        Path | None, typer.Option(help="The trained weights, unless the function loads them.")
    ] = None,
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
    from billhook.cli.bodies.sensitivity import family_on_data, own_network
    from billhook.render import terminal
    from billhook.scan import SPARSITIES, sensitivity

    if data is not None and evaluate is None:
        measured = family_on_data(model, data, recipe, weights, metric)
        if lower_is_better and measured.higher_is_better:
            raise ConfigurationError("--lower-is-better is for --evaluate: leave it out")
    elif evaluate is not None and data is None:
        measured = own_network(model, evaluate, weights, higher=not lower_is_better)
    else:
        raise ConfigurationError(
            "one of --evaluate and --data measures the network: give one of them, not "
            f"{'both' if data is not None else 'neither'}"
        )
    scan = sensitivity(
        measured.network,
        measured.evaluate,
        sparsity or SPARSITIES,
        file=file,
        metric=measured.name,
    )
    if plot is not None:
        scan.plot(plot)
    rules = None
    if tolerance is not None:
        rules = scan.rules(tolerance, higher_is_better=measured.higher_is_better)
    if json:
        print_json({"dense": scan.dense, "metrics": scan.metrics, "rules": rules})
        return
    terminal().print(scan)
    if rules is not None:
        terminal().print(f"rules = {rules!r}")
