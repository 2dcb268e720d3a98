"""What ``billhook sensitivity`` scans: a network, and what measures it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from billhook.errors import ConfigurationError
from billhook.named_model import build_model, named_function, parse_call
from billhook.tasks.build import build_task
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import load_recipe
from billhook.training.weights import load_weights

__all__ = ["Measured", "measured"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A trained network in evaluation mode, and its metric, which ``name`` tells from others."""

    network: nn.Module
    name: str
    evaluate: Callable[[nn.Module], float]
    higher_is_better: bool


def measured(
    model: str,
    evaluate: str | None,
    data: Path | None,
    weights: Path | None,
    *,
    recipe: str,
    metric: str | None,
    lower_is_better: bool,
) -> Measured:
    """A network and a function of the user's own, or a family and its metric on ``data``.

    Raises:
        ConfigurationError: both or neither is given, or what is given does not fit together.
    """
    if evaluate is not None and data is None:
        return _own_network(model, evaluate, weights, higher=not lower_is_better)
    if data is not None and evaluate is None:
        found = _family_on_data(model, data, recipe, weights, metric)
        if lower_is_better and found.higher_is_better:
            raise ConfigurationError("--lower-is-better is for --evaluate: leave it out")
        return found
    raise ConfigurationError(
        "one of --evaluate and --data measures the network: give one of them, not "
        f"{'both' if data is not None else 'neither'}"
    )


def _own_network(model: str, evaluate: str, weights: Path | None, *, higher: bool) -> Measured:
    network = build_model(model, "cpu")
    if weights is not None:
        load_weights(network, weights, "--weights")
    function = named_function(evaluate)

    def metric(tried: nn.Module) -> float:
        value = function(tried)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigurationError(
                f"--evaluate {evaluate} returned a {type(value).__name__} that is not one number: "
                "return the metric of the model that it is given"
            ) from None

    return Measured(network.eval(), evaluate, metric, higher)


def _family_on_data(
    model: str, data: Path, recipe: str, weights: Path | None, metric: str | None
) -> Measured:
    """One of billhook's families with a metric of its task on validation data, else the first.

    Raises:
        ConfigurationError: no such family or metric, no weights, or weights of another network.
    """
    name = model.partition("(")[0]
    if name not in FAMILIES:
        raise ConfigurationError(
            f"--data measures one of {', '.join(FAMILIES)}, and {name} is not one of them: give "
            "--evaluate module:function for a network of your own"
        )
    if weights is None:
        raise ConfigurationError(
            f"--data {data} is for trained weights, which random ones are not: give --weights too"
        )
    _, arguments = parse_call(model)
    task = build_task(load_recipe(name, recipe).changed(model=arguments), data)
    load_weights(task.model, weights, "--weights")
    usable = {each.name: each for each in task.metrics if not each.test_only}
    chosen = next(iter(usable)) if metric is None else metric
    if chosen not in usable:
        raise ConfigurationError(
            f"--metric {chosen} is not measured on the validation data of {name}: use "
            f"{' or '.join(usable)}"
        )

    def evaluate(network: nn.Module) -> float:
        return float(task.evaluate(network, "valid")[chosen])

    label = f"{chosen} on the validation part of {task.data_description}"
    return Measured(task.model.eval(), label, evaluate, usable[chosen].higher_is_better)
