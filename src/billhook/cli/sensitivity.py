"""``billhook sensitivity``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import Json, find_modules_here, print_json

__all__ = ["sensitivity_command"]


def sensitivity_command(
    model: Annotated[
        str, typer.Argument(help="module:function, or a function of billhook.models.")
    ],
    evaluate: Annotated[
        str, typer.Option(help="module:function of the model that returns its metric.")
    ],
    *,
    weights: Annotated[
        Path | None, typer.Option(help="The trained weights, unless the function loads them.")
    ] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="A share of zeros to try; repeatable.")
    ] = None,
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
    plot: Annotated[Path | None, typer.Option(help="A chart to draw: .png, .svg or .html.")] = None,
    json: Json = False,
) -> None:
    """Measure what pruning each tensor by itself costs, without training."""
    find_modules_here()
    from billhook.format import load
    from billhook.named_model import build_model, named_function
    from billhook.render import terminal
    from billhook.scan import SPARSITIES, sensitivity

    network = build_model(model, "cpu")
    if weights is not None:
        network.load_state_dict(load(weights))
    scan = sensitivity(network.eval(), named_function(evaluate), sparsity or SPARSITIES, file=file)
    if plot is not None:
        scan.plot(plot)
    rules = None
    if tolerance is not None:
        rules = scan.rules(tolerance, higher_is_better=not lower_is_better)
    if json:
        print_json({"dense": scan.dense, "metrics": scan.metrics, "rules": rules})
        return
    terminal().print(scan)
    if rules is not None:
        terminal().print(f"rules = {rules!r}")
