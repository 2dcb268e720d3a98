"""Translate other libraries' settings to billhook's objects; list what has no counterpart.

>>> moved = from_hparams("pruning_frequency=10,target_sparsity=0.9,sparsity_function_end_step=500")
>>> moved.schedule
Polynomial(final_sparsity=0.9, begin_step=0, end_step=500, frequency=10, num_updates=50, \
initial_sparsity=0.0, exponent=3.0)
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from billhook.criterion import Criterion, Magnitude
from billhook.errors import ConfigurationError
from billhook.granularity import Block, Granularity, Unstructured
from billhook.migrated import Migrated
from billhook.saliency import FirstOrder, Fisher
from billhook.schedule import Polynomial, Schedule
from billhook.selection import Rules
from billhook.sparseml import from_sparseml

__all__ = ["Migrated", "from_hparams", "from_sparseml"]

#: tf.contrib.model_pruning's defaults (tensorflow 1.15, pruning.py, get_pruning_hparams).
_HPARAMS: dict[str, Any] = {
    "name": "model_pruning",
    "begin_pruning_step": 0,
    "end_pruning_step": -1,
    "weight_sparsity_map": [],
    "block_dims_map": [],
    "threshold_decay": 0.0,
    "pruning_frequency": 10,
    "nbins": 256,
    "block_height": 1,
    "block_width": 1,
    "block_pooling_function": "AVG",
    "initial_sparsity": 0.0,
    "target_sparsity": 0.5,
    "sparsity_function_begin_step": 0,
    "sparsity_function_end_step": 100,
    "sparsity_function_exponent": 3.0,
    "use_tpu": False,
    "gradient_decay_rate": 0.99,
    "prune_option": "weight",
}
_CRITERIA: dict[str, Criterion] = {
    "weight": Magnitude(),
    "first_order_gradient": FirstOrder(),
    "second_order_gradient": Fisher(),
}


def from_hparams(hparams: str | Mapping[str, Any]) -> Migrated:
    """The hyperparameters of ``tf.contrib.model_pruning``, the library of the paper's authors.

    All of its hyperparameters are understood; those that are not given have its defaults. Its
    blocks are counted on (in, out) matrices, so ``block_height`` becomes columns and
    ``block_width`` rows. A name in ``weight_sparsity_map`` becomes the glob ``*name*``.

    Args:
        hparams: as the library took them, ``"target_sparsity=0.9,weight_sparsity_map=[fc:0.5]"``,
            or a mapping.

    Raises:
        ConfigurationError: an unknown name or value, or a pruning window that billhook cannot keep.
    """
    given = _parse(hparams) if isinstance(hparams, str) else dict(hparams)
    for name in given:
        if name not in _HPARAMS:
            raise ConfigurationError(
                f"{name!r} is not a hyperparameter of tf.contrib.model_pruning: they are "
                f"{', '.join(_HPARAMS)}"
            )
    values = _HPARAMS | given
    criterion = _CRITERIA.get(values["prune_option"])
    if criterion is None:
        raise ConfigurationError(
            f"prune_option {values['prune_option']!r} is unknown: it is one of "
            f"{', '.join(_CRITERIA)}"
        )
    return Migrated(
        _window(values),
        criterion=criterion,
        granularity=_blocks(values),
        rules=_sparsity_map(values["weight_sparsity_map"]),
        left_out=tuple(_unsaid(values)),
    )


def _window(values: Mapping[str, Any]) -> Schedule:
    begin, end = values["sparsity_function_begin_step"], values["sparsity_function_end_step"]
    first, last = values["begin_pruning_step"], values["end_pruning_step"]
    if first > begin:
        raise ConfigurationError(
            f"begin_pruning_step {first} is after sparsity_function_begin_step {begin}: masks "
            "would begin in the middle of the curve; set both to the step at which pruning is to "
            "begin"
        )
    if 0 <= last < end:
        raise ConfigurationError(
            f"end_pruning_step {last} is before sparsity_function_end_step {end}: the target would "
            "never be reached; set it to -1 or to the same step"
        )
    return Polynomial(
        values["target_sparsity"],
        begin,
        end,
        frequency=values["pruning_frequency"],
        initial_sparsity=values["initial_sparsity"],
        exponent=float(values["sparsity_function_exponent"]),
    )


def _blocks(values: Mapping[str, Any]) -> Granularity:
    if values["block_pooling_function"] not in ("AVG", "MAX"):
        raise ConfigurationError(
            f"block_pooling_function {values['block_pooling_function']!r} is unknown: it is AVG "
            "or MAX"
        )
    if values["block_dims_map"]:
        raise ConfigurationError(
            f"block_dims_map {values['block_dims_map']} gives layers blocks of their own: make one "
            "Pruner per block size, each with rules that leave the other layers dense"
        )
    height, width = values["block_height"], values["block_width"]
    if (height, width) == (1, 1):
        return Unstructured()
    return Block(width, height, "max" if values["block_pooling_function"] == "MAX" else "sum")


def _sparsity_map(entries: Any) -> Rules | None:
    rules: dict[str | type[nn.Module], float | Schedule | None] = {}
    for entry in [entries] if isinstance(entries, str) else entries:
        if not entry:
            continue
        name, colon, value = entry.rpartition(":")
        if not colon:
            raise ConfigurationError(f"weight_sparsity_map {entry!r} is not name:sparsity")
        rules[f"*{name}*"] = float(value)
    return rules or None


def _unsaid(values: Mapping[str, Any]) -> list[str]:
    found = []
    if values["threshold_decay"]:
        found.append(
            f"threshold_decay={values['threshold_decay']}: thresholds are exact at every update, "
            "not averaged over updates"
        )
    if values["end_pruning_step"] < 0:
        found.append(
            "end_pruning_step=-1: masks are drawn for the last time at "
            "sparsity_function_end_step, and held from then on"
        )
    if values["prune_option"] != "weight":
        found.append(
            f"gradient_decay_rate={values['gradient_decay_rate']}: gradients are averaged with "
            "equal weights since the last update"
        )
    return found


def _parse(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in re.findall(r"[^,\[\]]+(?:\[[^\]]*\])?", text):
        name, equals, value = part.strip().partition("=")
        if not equals:
            raise ConfigurationError(
                f"{part.strip()!r} is not name=value: hyperparameters are separated by commas, "
                "lists are written in brackets"
            )
        default = _HPARAMS.get(name)
        if value.startswith("["):
            values[name] = [each.strip() for each in value[1:-1].split(",") if each.strip()]
        elif isinstance(default, bool):
            values[name] = value.lower() in ("true", "1")
        elif isinstance(default, (int, float)):
            values[name] = _number(name, value)
        else:
            values[name] = value
    return values


def _number(name: str, value: str) -> float | int:
    try:
        return int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
    except ValueError:
        raise ConfigurationError(f"{name}={value!r} is not a number") from None
