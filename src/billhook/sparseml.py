"""Recipes of sparseml: :func:`billhook.migrate.from_sparseml`."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from billhook.allocation import Uniform
from billhook.criterion import Magnitude
from billhook.errors import ConfigurationError
from billhook.falling import Alternating
from billhook.global_ranking import Global
from billhook.granularity import Block, Granularity, Unstructured
from billhook.migrated import Migrated
from billhook.saliency import Fisher
from billhook.schedule import Cubic, Hold, OneShot, Polynomial, Schedule
from billhook.selection import named_weights

__all__ = ["from_sparseml"]


def from_sparseml(recipe: str, steps_per_epoch: int, model: nn.Module) -> Migrated:
    """A recipe of sparseml (or nm-vllm's llm-compressor of that time): its YAML text.

    Gradual magnitude pruning, constant pruning (``Hold``), AC/DC, global magnitude pruning, oBERT
    (as the diagonal ``Fisher``) and distillation carry over. Modifiers of learning rates, epochs
    and quantisation belong to the training loop; they are named in ``left_out``, and so is every
    setting that has no counterpart. Where modifiers have schedules of their own, ``rules`` has them
    by tensor; tensors that no modifier names are left dense.

    Args:
        recipe: the text, or that of a Markdown file with the recipe at its beginning.
        steps_per_epoch: optimizer steps per epoch; steps are rounded to the nearest.
        model: the network; ``params`` are looked up among its names.

    Raises:
        ConfigurationError: the text is not YAML, a name matches nothing, or there is an
            ``eval(...)`` (put its value there) or a pruning modifier that billhook does not know.
    """
    schedules: dict[str, Schedule] = {}
    parts: dict[str, Any] = {}
    left_out: list[str] = []
    for kind, settings in _modifiers(recipe):
        if kind in _PRUNING:
            names = _names(settings.get("params", "__ALL_PRUNABLE__"), model)
            schedule = _PRUNING[kind](settings, steps_per_epoch)
            schedules |= dict.fromkeys(names, schedule)
            for role, part in _parts_of(kind, settings).items():
                if parts.setdefault(role, part) != part:
                    raise ConfigurationError(
                        f"the recipe's modifiers differ in {role}: {parts[role]} and {part}; make "
                        "one Pruner for each, with rules that leave the other's tensors dense"
                    )
            known = {"params", *_WINDOW, *_SILENT}
            left_out += [f"{kind}.{k}={v!r}" for k, v in settings.items() if k not in known]
        elif kind == "DistillationModifier":
            parts["distillation"] = {
                "hardness": float(settings.get("hardness", 0.5)),
                "temperature": float(settings.get("temperature", 2.0)),
            }
        elif "Pruning" in kind:
            raise ConfigurationError(
                f"{kind} has no counterpart here; known are {', '.join(_PRUNING)}"
            )
        else:
            left_out.append(f"{kind}: set it in your training loop")
    if not schedules:
        raise ConfigurationError("the recipe has no pruning modifier: there is nothing to migrate")
    default = next(iter(schedules.values()))
    pruned = {weight.name for weight in named_weights(model) if weight.kind == "weight matrix"}
    rules: dict[str | type[nn.Module], float | Schedule | None] = dict.fromkeys(
        sorted(pruned - set(schedules))
    )
    rules |= {name: own for name, own in schedules.items() if own != default or name not in pruned}
    return Migrated(default, rules=rules or None, left_out=tuple(left_out), **parts)


_WINDOW = {
    "init_sparsity",
    "final_sparsity",
    "start_epoch",
    "end_epoch",
    "update_frequency",
    "inter_func",
    "mask_type",
    "global_sparsity",
    "compression_sparsity",
}
_SILENT = {"leave_enabled", "log_types"}  # masks are always held to the end


def _gradual(settings: Mapping[str, Any], steps: int) -> Schedule:
    begin = round(_value(settings, "start_epoch") * steps)
    end = round(_value(settings, "end_epoch") * steps)
    every = max(1, round(_value(settings, "update_frequency", 1.0) * steps))
    first = _value(settings, "init_sparsity", 0.05)
    last = _value(settings, "final_sparsity")
    curve = settings.get("inter_func", "cubic")
    if curve == "cubic":
        return Cubic(last, begin, end, frequency=every, initial_sparsity=first)
    if curve == "linear":
        return Polynomial(last, begin, end, frequency=every, initial_sparsity=first, exponent=1.0)
    raise ConfigurationError(f"inter_func {curve!r} has no counterpart: use cubic or linear")


def _acdc(settings: Mapping[str, Any], steps: int) -> Schedule:
    return Alternating(
        _value(settings, "compression_sparsity"),
        round(_value(settings, "start_epoch") * steps),
        round(_value(settings, "end_epoch") * steps),
        frequency=max(1, round(_value(settings, "update_frequency") * steps)),
    )


def _hold(settings: Mapping[str, Any], steps: int) -> Schedule:  # noqa: ARG001 - from the start
    return Hold()


def _at_once(settings: Mapping[str, Any], steps: int) -> Schedule:
    step = round(_value(settings, "start_epoch", 0.0) * steps)
    return OneShot(_value(settings, "final_sparsity"), step)


_PRUNING = {
    "GMPruningModifier": _gradual,
    "MagnitudePruningModifier": _gradual,
    "GlobalMagnitudePruningModifier": _gradual,
    "OBSPruningModifier": _gradual,
    "ACDCPruningModifier": _acdc,
    "ConstantPruningModifier": _hold,
    "OneShotPruningModifier": _at_once,
}
_MASKS: dict[str, Granularity] = {
    "unstructured": Unstructured(),
    "block4": Block(1, 4),
    "block": Block(1, 4),
    "[1, 4]": Block(1, 4),
}


def _parts_of(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the pruner that a modifier speaks of."""
    mask = str(settings.get("mask_type", "unstructured"))
    if mask not in _MASKS:
        raise ConfigurationError(
            f"mask_type {mask!r} has no counterpart: known are {', '.join(_MASKS)}"
        )
    if kind == "ConstantPruningModifier":
        return {}
    together = kind == "GlobalMagnitudePruningModifier" or bool(settings.get("global_sparsity"))
    return {
        "granularity": _MASKS[mask],
        "criterion": Fisher() if kind == "OBSPruningModifier" else Magnitude(),
        "allocation": Global() if together else Uniform(),
    }


def _value(settings: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = settings.get(name, default)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if value is None:
        raise ConfigurationError(f"a modifier has no {name}: give it a number")
    raise ConfigurationError(
        f"{name} is {value!r}: put the number there that the expression stands for"
    )


def _names(params: Any, model: nn.Module) -> list[str]:
    """The tensors that a recipe's ``params`` name."""
    weights = named_weights(model)
    found: list[str] = []
    for pattern in [params] if isinstance(params, str) else params:
        if pattern in ("__ALL__", "__ALL_PRUNABLE__"):
            matching = [weight.name for weight in weights if weight.kind == "weight matrix"]
        elif pattern.startswith("re:"):
            regex = re.compile(pattern[3:])
            matching = [w.name for w in weights if any(map(regex.match, w.names))]
        else:
            matching = [weight.name for weight in weights if pattern in weight.names]
        if not matching:
            raise ConfigurationError(f"params {pattern!r} of the recipe match no parameter")
        found += matching
    return list(dict.fromkeys(found))


def _modifiers(recipe: str) -> list[tuple[str, dict[str, Any]]]:
    """(class, settings) of every modifier, stage by stage."""
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise ConfigurationError(
            "a sparseml recipe is YAML, and PyYAML is not installed: pip install pyyaml"
        ) from error

    loader_class = type("Loader", (yaml.SafeLoader,), {})  # in which a tag names a modifier

    def tagged(loader: Any, suffix: str, node: Any) -> tuple[str, dict[str, Any]]:
        return suffix, loader.construct_mapping(node, deep=True) if node.value else {}

    loader_class.add_multi_constructor("!", tagged)  # type: ignore[attr-defined]
    if recipe.lstrip().startswith("---"):  # Markdown with the recipe as its front matter
        recipe = recipe.lstrip()[3:].partition("\n---")[0]
    try:
        content = yaml.load(recipe, loader_class)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the recipe is not YAML: {error}") from error
    found: list[tuple[str, dict[str, Any]]] = []

    def gather(node: Any) -> None:
        if isinstance(node, tuple):
            found.append(node)
        elif isinstance(node, dict):
            for value in node.values():
                gather(value)
        elif isinstance(node, list):
            for value in node:
                gather(value)

    gather(content)
    return found
