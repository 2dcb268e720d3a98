"""A model whose layers are replaced one by one, some of them by layers in 8 bits."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from billhook.errors import CompileError
from billhook.format.reader import Reader
from billhook.inference import kernels
from billhook.inference.int8.choices import candidates as kernel_candidates
from billhook.inference.int8.choices import pattern_of
from billhook.inference.int8.layers import (
    DENSE_TYPES,
    Int8Weights,
    make_int8,
    quantised_weights,
)
from billhook.inference.int8.matrix import Int8Weight
from billhook.inference.layers.architecture import check_architecture, dense_tensors
from billhook.inference.layers.base import SparseLayer
from billhook.inference.layers.kinds import candidates, kind_of, make_sparse, obstacle
from billhook.inference.layers.program import (
    PREFIX,
    check_names,
    check_whole,
    join_names,
    layer_weights,
    read_tensor,
    sparse_names,
)
from billhook.inference.layers.race import Call, choose_modules, recorded_calls
from billhook.inference.layers.replacement import copy_with, layers_to_replace
from billhook.inference.plan import INT8_KERNELS, Choice, Plan
from billhook.inference.program_file import read_dense
from billhook.inference.race import race, winner
from billhook.inference.report import LayerReport

__all__ = ["choose_int8_modules", "open_int8_modules", "replace_int8_modules"]

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
    calls = recorded_calls(layers, lambda: run(model))
    merged = {report.name: report for report in reports}
    for name, call in calls.items():
        choices[name], merged[name] = _race(
            layers[name], call, fp32[name], merged[name], instruction_set
        )
    return choices, list(merged.values())


def _race(
    layer: nn.Module,
    call: Call,
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


def int8_layers(model: nn.Module, choices: Mapping[str, Choice]) -> dict[str, nn.Module]:
    """The layers that a plan has run in 8 bits, by name.

    Raises:
        CompileError: The model lacks one, or one has no form in 8 bits.
    """
    layers, found = dict(candidates(model)), {}
    for name, choice in choices.items():
        if choice.kernel not in INT8_KERNELS:
            continue
        if name not in layers:
            raise CompileError(
                f"the plan has a layer {name!r} that this model lacks: "
                "it was made for another model; compile without plan="
            )
        if not isinstance(layers[name], DENSE_TYPES) or obstacle(layers[name]) is not None:
            raise CompileError(f"the plan has {name!r} run in 8 bits, for which it has no form")
        found[name] = layers[name]
    return found


def replace_int8_modules(
    model: nn.Module, choices: Mapping[str, Choice], instruction_set: str
) -> nn.Module:
    """A copy of the model with layers in 8 bits, and sparse ones in fp32, as the choices say."""
    fp32 = {name: c for name, c in choices.items() if c.kernel not in INT8_KERNELS}
    sparse: dict[int, SparseLayer] = {
        id(layer): make_sparse(layer, fp32[name], kernels.isa())
        for name, layer in layers_to_replace(model, fp32).items()
    }
    for name, layer in int8_layers(model, choices).items():
        sparse[id(layer)] = make_int8(layer, choices[name], instruction_set)
    return copy_with(model, sparse, {})


def open_int8_modules(
    file: Reader, plan: Plan, architecture: Mapping[str, Any], model: nn.Module
) -> nn.Module:
    """A copy of the model with a file's layers and tensors, as ``layers/program.py`` opens them.

    Of a layer in 8 bits the file has each matrix as ``model.NAME.value`` and ``.step``.

    Raises:
        CompileError: The model is not the one that was compiled.
        ValueError: A tensor of the file does not fit.
    """
    check_architecture(architecture, model)
    fp32 = {name: c for name, c in plan.layers.items() if c.kernel not in INT8_KERNELS}
    floats, int8 = layers_to_replace(model, fp32), int8_layers(model, plan.layers)
    dense = dict(dense_tensors(model, [*floats.values(), *int8.values()]))
    names = {PREFIX + name for name in dense}.union(*(sparse_names(*e) for e in floats.items()))
    check_names(file, names.union(*(_int8_names(*each) for each in int8.items())))
    sparse: dict[int, SparseLayer] = {}
    for name, layer in floats.items():
        own = layer_weights(file, name, layer)
        sparse[id(layer)] = make_sparse(layer, fp32[name], kernels.isa(), own)
    for name, layer in int8.items():
        weights = _int8_weights(file, name, layer)
        sparse[id(layer)] = make_int8(layer, plan.layers[name], plan.isa, weights)
    tensors = {id(tensor): read_tensor(file, name, tensor) for name, tensor in dense.items()}
    program = copy_with(model, sparse, tensors)
    check_whole(program)
    return program


def _parts(name: str, layer: nn.Module) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each parameter's own name, its name in files, and its shape."""
    for part in kind_of(layer).weight_names(layer):
        yield part, PREFIX + join_names(name, part), tuple(attrgetter(part)(layer).shape)


def _int8_names(name: str, layer: nn.Module) -> set[str]:
    parts = [(full, len(shape) > 1) for _, full, shape in _parts(name, layer)]
    return {f"{full}.{each}" for full, matrix in parts if matrix for each in ("value", "step")} | {
        full for full, matrix in parts if not matrix
    }


def _int8_weights(file: Reader, name: str, layer: nn.Module) -> Int8Weights:
    weights: dict[str, Int8Weight | torch.Tensor] = {}
    for part, full, shape in _parts(name, layer):
        if len(shape) == 1:
            weights[part] = read_dense(file, full, shape)
            continue
        value = read_dense(file, f"{full}.value", shape, "I8").numpy()
        step = read_dense(file, f"{full}.step", shape[:1])
        if not bool((step.isfinite() & (step >= 0)).all()):
            raise ValueError(f"{full!r} has steps that are negative or not finite")
        weights[part] = Int8Weight(value, step.numpy())
    return weights
