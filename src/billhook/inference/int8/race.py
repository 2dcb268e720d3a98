"""Races the kernels that can run each layer of a network in 8 bits, on this machine."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from billhook.inference import isa
from billhook.inference.int8 import bindings
from billhook.inference.int8.choices import candidates, lines_of, matrix_of, pattern_of
from billhook.inference.int8.lowering import lower, workspace_of
from billhook.inference.int8.ops import INPUT, Conv, Flatten, Linear, Program, Range
from billhook.inference.plan import Choice
from billhook.inference.race import race
from billhook.inference.report import LayerReport

__all__ = ["choices_for", "race_network"]

REPEATS = 4  # of a step in one native call, so that the call itself weighs little
#: Widest tiles, in lines of 16 pixels, that are worth timing for each kernel.
LINES = {
    "1x4": (8, 7, 6, 5, 4, 3, 2),
    "4x4": (6, 5, 4, 3),
    "8x4": (6, 3),
    "16x4": (4, 1),
    "all_blocks": (6, 4),
    "windows": (4, 1),
}


def race_network(
    program: Program, instruction_set: str
) -> tuple[dict[str, Choice], list[LayerReport]]:
    """The fastest kernel of each layer, and the times of all that were tried."""
    choices: dict[str, Choice] = {}
    reports = []
    for _, op in program.layers():
        choices[op.name], report = _race_layer(program, op, instruction_set)
        reports.append(report)
    return choices, reports


def choices_for(op: Conv | Linear, instruction_set: str) -> Iterator[Choice]:
    """The choices worth timing."""
    if isinstance(op, Conv) and op.depthwise:
        yield Choice("depthwise")
        return
    matrix = matrix_of(op)
    if len(op.shape) == 1:
        for kernel in candidates(matrix, instruction_set, vector=True):
            yield Choice(kernel, 1)
        return
    lines = -(-math.prod(op.shape[1:]) // 16)
    for kernel in candidates(matrix, instruction_set, vector=False):
        if isinstance(op, Linear):  # its tiles are as wide as its kernel's registers hold
            yield Choice(kernel, 2 * lines)
            continue
        possible = sorted({min(width, lines) for width in LINES[kernel]}, reverse=True)
        for width in possible:
            yield Choice(kernel, 2 * width)


def _race_layer(
    program: Program, op: Conv | Linear, instruction_set: str
) -> tuple[Choice, LayerReport]:
    alone = _alone(program, op)
    calls = {}
    for choice in choices_for(op, instruction_set):
        lowered = lower(alone, {op.name: choice}, instruction_set)
        step = (bindings.Step * 1)(lowered.of_layer[op.name])
        space = workspace_of(lowered.size)
        result = np.zeros(int(np.prod(op.shape)) + 16, np.float32)
        calls[choice] = partial(_run, step, space, result, instruction_set, lowered)
    times = {choice: time / REPEATS for choice, time in race(calls).items()}
    best = min(times, key=lambda choice: times[choice])
    return best, _report(op, times, best)


def _alone(program: Program, op: Conv | Linear) -> Program:
    """The layer as a program of its own, on an input of the same shape."""
    source = program.shape(op.inputs[0])
    shape = source if len(source) == 3 else (source[0], 1, 1)
    if isinstance(op, Conv):
        single = replace(op, inputs=(INPUT,), addend_scale=0.0)
        return Program(shape, op.shape, Range(1.0, 0), (single,))
    if len(op.shape) > 1:
        return Program(shape, op.shape, Range(1.0, 0), (replace(op, inputs=(INPUT,)),))
    flat = Flatten("flat", (INPUT,), (source[0],), Range(1.0, 0))
    linear = replace(op, inputs=(0,))
    return Program(shape, op.shape, Range(1.0, 0), (flat, linear))


def _run(
    step: object,
    space: np.ndarray,
    result: np.ndarray,
    instruction_set: str,
    kept: object,
) -> None:
    """The step some times over; ``kept`` holds the weights it points to."""
    del kept
    bindings.run(
        step,
        (space.ctypes.data, 0, result.ctypes.data),
        (0, 0, 0),
        samples=REPEATS,
        threads=torch.get_num_threads(),
        isa=isa.index_of(instruction_set, "int8"),
    )


def _report(op: Conv | Linear, times: dict[Choice, float], best: Choice) -> LayerReport:
    matrix = matrix_of(op)
    fastest: dict[str, float] = {}
    for choice, time in times.items():
        fastest[choice.kernel] = min(time, fastest.get(choice.kernel, time))
    others = ", ".join(
        f"{kernel} {time * 1e3:.1f}" for kernel, time in sorted(fastest.items(), key=lambda t: t[1])
    )
    positions = math.prod(op.shape[1:])
    return LayerReport(
        name=op.name,
        kind=type(op).__name__ if best.kernel != "depthwise" else "Conv, depthwise",
        shape=op.weight.shape,
        sparsity=1 - np.count_nonzero(op.weight) / max(op.weight.size, 1),
        positions=positions,
        dense_ms=fastest.get("all_blocks"),
        sparse_ms=min((t for k, t in fastest.items() if k != "all_blocks"), default=None),
        chosen=f"{best.kernel}, {lines_of(best)} lines" if positions > 1 else best.kernel,
        reason=f"microseconds: {others}",
        precision="int8",
        pattern="depthwise" if best.kernel == "depthwise" else pattern_of(matrix),
    )
