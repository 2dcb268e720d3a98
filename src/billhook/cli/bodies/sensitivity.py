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

__all__ = ["Measured", "family_on_data", "own_network"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A trained network in evaluation mode, and its metric, which ``name`` tells from others."""

    network: nn.Module
    name: str
    evaluate: Callable[[nn.Module], float]
    higher_is_better: bool


def own_network(model: str, evaluate: str, weights: Path | None, *, higher: bool) -> Measured:
    """A network and a metric of the user's own."""
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


def family_on_data(
    model: str, data: Path, recipe: str, weights: Path | None, metric: str | None
) -> Measured:
    """One of billhook's families with a metric of its task on validation data, else the first.

    Raises:
        ConfigurationError: no such family or metric, no weights, or weights of another network.
    """
    name = model.partition("(")[0]
    if name not in FAMILIES:
        raise ConfigurationError(
            f"--data measures one of {', '.join(FAMILIES)}, and {name} is none of them: give "
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
