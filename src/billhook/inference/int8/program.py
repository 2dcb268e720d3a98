"""A network in 8 bits as tensors for ``billhook.save``, and back from a file.

The text lists the operations with their ranges and the plan. Operation i has ``i.weight``
(s8), ``i.bias`` (s32) and ``i.scale`` (fp32), or ``i.table`` (u8), or ``i.index`` (s32). Version 1
had no steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import CompileError
from billhook.format.reader import Reader
from billhook.inference import graph
from billhook.inference.graph.ops import require
from billhook.inference.graph.soundness import check_graph
from billhook.inference.int8.choices import MAX_QUADS, quads_of
from billhook.inference.int8.lowering import workspace_bytes
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.ops import (
    INPUT,
    PIXELS,
    Add,
    Concat,
    Conv,
    Flatten,
    Layer,
    Linear,
    Mean,
    Multiply,
    Op,
    Pool,
    Program,
    Quantise,
    Range,
    Select,
    Shape,
    Table,
)
from billhook.inference.int8.quantise import check_sums
from billhook.inference.int8.reference import multiply_scale
from billhook.inference.int8.steps import describe, ports
from billhook.inference.limits import Limits
from billhook.inference.plan import INT8_KERNELS, Choice, Plan
from billhook.inference.program_file import CODED, program_text, read_dense

__all__ = ["check_program", "int8_network_tensors", "read_int8_network", "takes_at_most"]

_KINDS: dict[str, type[Op]] = {
    kind.__name__: kind
    for kind in (
        *(Conv, Linear, Pool, Mean, Add, Multiply, Table, Concat, Select, Flatten, Quantise),
    )
}
ON_PIXELS = (Add, Multiply, Table, Concat, Select, Linear)
_ARRAYS = ("weight", "bias", "scale", "table", "index")


def int8_network_tensors(
    network: Int8Network, plan: Plan, example: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """The program's tensors by name."""
    program = network.program
    tensors = {
        f"{index}.{name}": torch.from_numpy(getattr(op, name))
        for index, op in enumerate(program.ops)
        for name in _ARRAYS
        if hasattr(op, name)
    }
    own = program.input_range
    return tensors | program_text(
        plan,
        example,
        CODED,
        **ports(program),
        shape=program.input_shape,
        takes=program.sample_shape,
        output_shape=program.output_shape,
        input_range=[own.step, own.zero],
        ops=[{"type": type(op).__name__, **_settings(op)} for op in program.ops],
        run=describe(program, plan.layers),
    )


def _settings(op: Op) -> dict[str, Any]:
    settings = {f.name: getattr(op, f.name) for f in fields(op) if f.name not in _ARRAYS}
    settings["range"] = None if op.range is None else [op.range.step, op.range.zero]
    if isinstance(op, Layer):
        settings["weight_shape"] = list(op.weight.shape)
    return settings


def read_int8_network(file: Reader, plan: Plan, data: Mapping[str, Any]) -> Program:
    """The program of a file's text and tensors, checked.

    Raises:
        ValueError: They do not fit together.
    """
    channels, height, width = data["shape"]
    limits = Limits.of(file.nbytes, 4 * math.prod(data["shape"]))
    cells = sum(_cells(settings) for settings in data["ops"] if "weight_shape" in settings)
    limits.check("opening it", cells // 4, limits.opening)
    ops = tuple(_op(file, index, dict(settings)) for index, settings in enumerate(data["ops"]))
    shape = (channels, height, width)
    takes = _takes(tuple(data.get("takes", shape)), shape)
    program = Program(
        *(shape, tuple(data["output_shape"]), _range(data["input_range"]), ops, takes),
        input_name=str(data["inputs"][0]["name"]) if "inputs" in data else "x",
    )
    check_program(program, plan.layers)
    limits.check("running it", _work(program), limits.work)
    limits.check("one sample", workspace_bytes(program) // 4, limits.workspace)
    return program


def takes_at_most(program: Program, floats: int) -> bool:
    """Whether one sample takes no more floats of memory, and makes no more read."""
    sample = math.prod(program.input_shape)
    return max(workspace_bytes(program) // 4, _work(program), sample) <= floats


def _work(program: Program) -> int:
    whole = graph.Graph.of_maps([_as_graph(op) for op in program.ops], program.input_shape)
    return whole.work


def _cells(settings: Mapping[str, Any]) -> int:
    """Bytes of the matrix of an operation, zeros between groups included; claims, yet unread."""
    shape, groups = settings["weight_shape"], settings.get("groups", 1)
    if not all(type(n) is int and 0 < n < 2**31 for n in (*shape, groups)):
        raise ValueError(f"{shape} in {groups!r} groups is not the shape of a weight")
    cells: int = math.prod(shape) * groups + 64 * shape[0]
    return cells


def _range(data: Any) -> Range:
    step, zero = data
    sound = type(step) is float and type(zero) is int and 0 <= zero <= 255 and 1e-30 < step < 1e30
    if not sound:
        raise ValueError(f"{data!r} is not the range of a value in 8 bits")
    return Range(step, zero)


def _takes(takes: Shape, shape: tuple[int, int, int]) -> Shape:
    """One sample as callers give it, which must be the map's shape in another form."""
    channels, height, width = shape
    forms = {(channels,): (1, PIXELS), (channels, width): (1, width), shape: (height, width)}
    if forms.get(takes) != (height, width):
        raise ValueError(f"samples of {takes} are not maps of {shape}")
    return takes


def _op(file: Reader, index: int, settings: dict[str, Any]) -> Op:
    kind = _KINDS[settings.pop("type")]
    shape = settings.pop("weight_shape", None)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    values["range"] = None if settings["range"] is None else _range(settings["range"])
    if shape is not None:
        rows = (shape[0],)
        values["weight"] = read_dense(file, f"{index}.weight", tuple(shape), "I8").numpy()
        values["bias"] = read_dense(file, f"{index}.bias", rows, "I32").numpy()
        values["scale"] = read_dense(file, f"{index}.scale", rows).numpy()
    if kind is Table:
        values["table"] = read_dense(file, f"{index}.table", (256,), "U8").numpy()
    if kind is Select:
        channels = tuple(values["shape"])[:1]
        values["index"] = read_dense(file, f"{index}.index", channels, "I32").numpy()
    return kind(**values)


def check_program(program: Program, choices: Mapping[str, Choice]) -> None:
    """Raises ValueError unless the operations fit together: native code trusts them with addresses.

    Shapes are those that follow for the same network in fp32.
    """
    floats = [_as_graph(op) for op in program.ops]
    check_graph(graph.Graph.of_maps(floats, program.input_shape))
    made = math.prod(program.output_shape) * (PIXELS if program.by_sample else 1)
    if made != math.prod(program.ops[-1].shape):
        raise ValueError(f"the result's shape is {program.output_shape}")
    for index, op in enumerate(program.ops):
        _check_op(program, index, op)
        if program.by_sample:
            on_pixels = isinstance(op, ON_PIXELS) or getattr(op, "pointwise", False)
            _require(on_pixels and op.shape[1:] == (1, PIXELS), op, "does not work on pixels")
    _check_choices(program, choices)
    try:
        check_sums(program)
    except CompileError as error:
        raise ValueError(str(error)) from error


def _require(holds: bool, op: Op, what: str) -> None:
    if not holds:
        raise ValueError(f"operation {op.name!r} {what}")


def _as_graph(op: Op) -> graph.Op:
    """The operation as those of fp32 are checked."""
    common: dict[str, Any] = {"name": op.name, "inputs": op.inputs[:1], "shape": op.shape}
    if isinstance(op, Conv):
        settings = {k: getattr(op, k) for k in ("stride", "padding", "dilation", "groups")}
        return graph.Conv(**common, weight=_shape_of(op), **settings)
    if isinstance(op, Linear) and len(op.shape) == 1:
        return graph.Linear(**common, weight=_shape_of(op))
    if isinstance(op, Linear):
        return graph.Conv(**common, weight=_shape_of(op)[:, :, None, None])
    if isinstance(op, Pool):
        keys = ("kind", "kernel", "stride", "padding", "count_padding")
        return graph.Pool(**common, **{key: getattr(op, key) for key in keys})
    return _plain_as_graph(op, {**common, "inputs": op.inputs})


def _plain_as_graph(op: Op, common: dict[str, Any]) -> graph.Op:
    """The same of an operation without weights."""
    if isinstance(op, Select):
        return _Selected(**common, index=op.index)
    if isinstance(op, Add | Multiply) and len(op.inputs) == 2:
        return graph.Binary(**common, function="mul" if isinstance(op, Multiply) else "add")
    kinds: dict[type[Op], type[graph.Op]] = {
        Mean: graph.Mean,
        Concat: graph.Join,
        Flatten: graph.Flatten,
        Quantise: graph.Flatten,
    }
    if type(op) in kinds:
        return kinds[type(op)](**common)
    return graph.Elementwise(**common, function="abs")


@dataclass(frozen=True)
class _Selected(graph.Op):
    index: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        require(len(sources) == 1, f"takes {list(sources)}")
        (source,) = sources
        known = ((self.index >= 0) & (self.index < source[0])).all()
        require(bool(known) and self.index.dtype == np.int32, f"has no such channels of {source}")
        made = (len(self.index), *source[1:])
        if math.prod(source[1:]) == 1 and len(self.shape) in (1, 3):  # a vector is one pixel
            made = (len(self.index), 1, 1)[: len(self.shape)]
        return made


def _shape_of(op: Layer) -> torch.Tensor:
    return torch.empty(op.weight.shape, dtype=torch.int8, device="meta")


def _check_op(program: Program, index: int, op: Op) -> None:
    floats = isinstance(op, Linear)
    _require(floats == (op.range is None), op, "has a range only if it makes bytes")
    reads_floats = isinstance(op, Quantise)
    for value in op.inputs:
        _require(
            type(value) is int
            and INPUT <= value < index
            and (program.range(value) is None) == reads_floats,
            op,
            f"reads value {value}",
        )
    vector = isinstance(op, Linear | Mean | Flatten | Quantise)
    pixels = program.by_sample and isinstance(op, Linear) and index == len(program.ops) - 1
    either = isinstance(op, Add | Multiply | Table | Concat | Select)
    rank = len(op.shape) if either else 1 if vector and not pixels else 3
    _require(len(op.shape) == rank, op, f"makes {op.shape}")
    if isinstance(op, Concat | Pool | Flatten | Select):
        same = all(program.range(value) == op.range for value in op.inputs)
        _require(same, op, "reads another range than it makes")
    if isinstance(op, Quantise | Flatten | Mean):
        source = 1 if isinstance(op, Quantise) else 3
        _require(len(program.shape(op.inputs[0])) == source, op, "reads another kind of value")
    if isinstance(op, Multiply):
        shapes = [program.shape(value) for value in op.inputs]
        fits = len(shapes) == 2 and shapes[1] in (shapes[0], shapes[0][:1])
        _require(fits, op, f"multiplies {shapes}")
        factor = multiply_scale(program, op)
        _require(factor < 2**14, op, f"has the factor {factor}")
    if isinstance(op, Conv):
        addends = op.inputs[1:]
        fits = len(addends) <= 1 and all(program.shape(v) == op.shape for v in addends)
        _require(fits, op, f"adds {addends}")
        factor = op.addend_scale
        _require(type(factor) is float and 0 <= factor < 2**20, op, f"adds {factor} times a value")
    if isinstance(op, Layer):
        scale = op.scale
        _require(bool(np.isfinite(scale).all() and (scale >= 0).all()), op, "has no sound scales")
        _require(len(op.bias) == len(op.weight) == len(scale), op, "has other biases than rows")


def _check_choices(program: Program, choices: Mapping[str, Choice]) -> None:
    layers = {op.name: op for _, op in program.layers()}
    if len({op.name for op in program.ops}) != len(program.ops):
        raise ValueError("two operations have one name")
    different = sorted(layers.keys() ^ choices.keys())
    if different:
        raise ValueError(f"the plan and the program differ in layer {different[0]!r}")
    for name, op in layers.items():
        choice = choices[name]
        depthwise = isinstance(op, Conv) and op.depthwise and choice.kernel == "depthwise"
        fits = depthwise or choice.kernel in INT8_KERNELS
        if not fits:
            raise ValueError(f"the plan has {name!r} run by {choice}, which cannot")
        if quads_of(op) > MAX_QUADS:
            raise ValueError(f"{name!r} has more columns than the kernels count")
