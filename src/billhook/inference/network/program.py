"""A network plan as tensors, and back: what ``billhook.save(compiled)`` writes of a whole program.

The text lists the operations, the plan, and the steps that follow from them. The weight of
operation i is ``i.weight`` and its bias ``i.bias``. In version 1 a weight that runs sparse was
``i.row_ptr``, ``i.column`` and ``i.value``, and there were no steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from billhook.format.reader import Reader
from billhook.inference.graph import Conv, Elementwise, Layer, Linear, Multiply, Op, Other, Pool
from billhook.inference.graph.maps import other
from billhook.inference.graph.soundness import check_choices, check_ops
from billhook.inference.limits import Limits, weight_floats
from billhook.inference.network.network import Network
from billhook.inference.network.steps import describe
from billhook.inference.plan import Plan
from billhook.inference.program_file import (
    CODED,
    program_text,
    read_coded,
    read_dense,
    read_sparse,
)
from billhook.inference.weights.csr import SparseWeight

__all__ = ["network_tensors", "read_network"]

_KINDS: dict[str, Callable[..., Op]] = {
    Conv.type_name: Conv,
    Linear.type_name: Linear,
    Pool.type_name: Pool,
    Other.type_name: other,
    Elementwise.type_name: Elementwise,
    Multiply.type_name: Multiply,
}


def network_tensors(
    network: Network, plan: Plan, example: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """The program's tensors by name."""
    tensors: dict[str, torch.Tensor] = {}
    for index, op in enumerate(network.ops):
        if isinstance(op, Layer):
            tensors |= _weight_tensors(index, op)
    ops = [{"type": op.type_name, **_settings(op)} for op in network.ops]
    shape = network.input_shape
    run = describe(network.ops, shape, plan.layers)
    return tensors | program_text(plan, example, CODED, shape=shape, ops=ops, run=run)


def _settings(op: Op) -> dict[str, Any]:
    settings = {f.name: getattr(op, f.name) for f in fields(op) if f.name not in ("weight", "bias")}
    if isinstance(op, Layer):
        settings["weight_shape"] = list(op.weight.shape)
    return settings


def _weight_tensors(index: int, op: Layer) -> dict[str, torch.Tensor]:
    tensors = {} if op.bias is None else {f"{index}.bias": op.bias}
    weight = op.weight.dense() if isinstance(op.weight, SparseWeight) else op.weight
    return {**tensors, f"{index}.weight": weight}


def read_network(
    file: Reader, plan: Plan, data: Mapping[str, Any]
) -> tuple[list[Op], tuple[int, int, int]]:
    """The operations and the input's shape of a file's text and tensors.

    Raises:
        ValueError: They do not fit together.
    """
    _check_weights(file, plan, data["ops"])
    read = _read_v1 if data["version"] == 1 else read_coded
    ops = [
        _op(file, index, dict(settings), plan, read) for index, settings in enumerate(data["ops"])
    ]
    channels, height, width = data["shape"]
    check_ops(ops, (channels, height, width))
    check_choices(ops, plan.layers)
    return ops, (channels, height, width)


def _check_weights(file: Reader, plan: Plan, operations: list[Mapping[str, Any]]) -> None:
    """Before any is read: several operations may claim one tensor of the file."""
    shapes = [
        (tuple(settings["weight_shape"]), plan.layers[settings["name"]].kernel == "dense")
        for settings in operations
        if "weight_shape" in settings
    ]
    if not all(type(size) is int and size > 0 for shape, _ in shapes for size in shape or (0,)):
        raise ValueError("a weight's shape is not of whole numbers above 0")
    limits = Limits.of(file.nbytes, 0)
    limits.check("its weights", weight_floats(shapes), limits.opening)


def _read_v1(file: Reader, name: str, shape: tuple[int, ...]) -> SparseWeight:
    return read_sparse(file, name.removesuffix(".weight"), shape)


def _op(
    file: Reader,
    index: int,
    settings: dict[str, Any],
    plan: Plan,
    read: Callable[[Reader, str, tuple[int, ...]], SparseWeight],
) -> Op:
    kind = _KINDS[settings.pop("type")]
    shape = settings.pop("weight_shape", None)
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
    }
    if shape is not None:
        dense = plan.layers[settings["name"]].kernel == "dense"
        reads = read_dense if dense else read
        values["weight"] = reads(file, f"{index}.weight", tuple(shape))
        bias = f"{index}.bias"
        values["bias"] = read_dense(file, bias, (shape[0],)) if bias in set(file) else None
    return kind(**values)
