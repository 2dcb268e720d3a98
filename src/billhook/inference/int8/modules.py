"""A model whose layers are replaced one by one, some of them by layers in 8 bits."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from billhook.inference import kernels
from billhook.inference.int8.layers import DENSE_TYPES, make_int8, quantised_weights
from billhook.inference.int8.matrix import Int8Weight
from billhook.inference.int8.plan import candidates as kernel_candidates
from billhook.inference.int8.plan import pattern_of
from billhook.inference.layers.kinds import candidates, make_sparse, obstacle
from billhook.inference.layers.race import choose_modules
from billhook.inference.plan import INT8_KERNELS, Choice
from billhook.inference.race import race, winner
from billhook.inference.report import LayerReport

__all__ = ["choose_int8_modules"]

#: Widest panels of a batch, in lines of 16 samples.
LINES = {"1x4": 8, "4x4": 6, "8x4": 3, "16x4": 4, "all_blocks": 6, "windows": 4}


def choose_int8_modules(
    model: nn.Module, run: Callable[[nn.Module], object], instruction_set: str
) -> tuple[dict[str, Choice], list[LayerReport]]:
    """Races every layer in 8 bits beside the best of fp32: its choice and its times."""
    fp32, reports = choose_modules(model, run, kernels.isa())
    choices: dict[str, Choice] = dict(fp32)
    layers = {
        name: layer
        for name, layer in candidates(model)
        if isinstance(layer, DENSE_TYPES) and obstacle(layer) is None
    }
    calls = _recorded(layers, lambda: run(model))
    merged = {report.name: report for report in reports}
    for name, call in calls.items():
        choices[name], merged[name] = _race(
            layers[name], call, fp32[name], merged[name], instruction_set
        )
    return choices, list(merged.values())


def _recorded(
    layers: Mapping[str, nn.Module], run: Callable[[], object]
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """The last call of each layer in a run."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def record(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[name] = args, kwargs

    hooks = [
        layer.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _race(
    layer: nn.Module,
    call: tuple[tuple[Any, ...], dict[str, Any]],
    fp32: Choice,
    report: LayerReport,
    instruction_set: str,
) -> tuple[Choice, LayerReport]:
    args, kwargs = call
    weights = quantised_weights(layer)
    best32 = layer if fp32.kernel == "dense" else make_sparse(layer, fp32, kernels.isa())
    forms: dict[Choice, nn.Module] = {fp32: best32}
    matrices = [w.value for w in weights.values() if isinstance(w, Int8Weight)]
    largest = max(matrices, key=lambda m: m.size)
    for kernel in kernel_candidates(largest, instruction_set, vector=False):
        choice = Choice(kernel, 2 * LINES[kernel])
        forms[choice] = make_int8(layer, choice, instruction_set, weights)
    times = race({choice: partial(form, *args, **kwargs) for choice, form in forms.items()})
    best = winner(times, fp32)
    others = ", ".join(
        f"{choice.kernel if choice.kernel in INT8_KERNELS else 'fp32'} {time * 1e3:.1f}"
        for choice, time in sorted(times.items(), key=lambda item: item[1])
    )
    int8 = best.kernel in INT8_KERNELS
    why = f"microseconds: {others}"
    fields = {
        **vars(report),
        "sparse_ms": times[best] if int8 else report.sparse_ms,
        "chosen": best.kernel if int8 else report.chosen,
        "reason": why if int8 else f"8 bits are not faster here: {why}; {report.reason}",
        "precision": "int8" if int8 else "fp32",
        "pattern": pattern_of(largest),
    }
    return best, LayerReport(**fields)
