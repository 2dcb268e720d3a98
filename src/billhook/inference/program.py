"""A network plan as tensors, and back: what ``billhook.save(compiled)`` writes.

One tensor of JSON text, ``program``, lists the operations and the plan. The weight of operation i
is ``i.row_ptr``, ``i.column`` and ``i.value`` where it runs sparse, and ``i.weight`` where it runs
dense; its bias is ``i.bias``.
"""

import json
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from billhook.errors import ConfigurationError, FormatError
from billhook.format.reader import Reader
from billhook.inference.graph import Conv, Linear, Op, Other, Pool
from billhook.inference.network import Network
from billhook.inference.packing import Csr, SparseWeight, narrow, to_csr
from billhook.inference.plan import Plan

__all__ = ["pack_program", "unpack_program"]

VERSION = 1
_KINDS: dict[str, type[Op]] = {kind.__name__: kind for kind in (Conv, Linear, Pool, Other)}


def pack_program(network: Network, plan: Plan) -> dict[str, torch.Tensor]:
    """The program's tensors by name."""
    tensors: dict[str, torch.Tensor] = {}
    for index, op in enumerate(network.ops):
        if isinstance(op, Conv | Linear):
            tensors |= _weight_tensors(index, op, plan.layers[op.name].kernel == "dense")
    ops = [{"type": type(op).__name__, **_settings(op)} for op in network.ops]
    text = json.dumps(
        {"version": VERSION, "shape": network.input_shape, "plan": plan.to_dict(), "ops": ops}
    )
    tensors["program"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    return tensors


def _settings(op: Op) -> dict[str, Any]:
    settings = {f.name: getattr(op, f.name) for f in fields(op) if f.name not in ("weight", "bias")}
    if isinstance(op, Conv | Linear):
        settings["weight_shape"] = list(op.weight.shape)
    return settings


def _weight_tensors(index: int, op: Conv | Linear, dense: bool) -> dict[str, torch.Tensor]:
    tensors = {} if op.bias is None else {f"{index}.bias": op.bias}
    if dense:
        assert isinstance(op.weight, torch.Tensor)
        return {**tensors, f"{index}.weight": op.weight}
    csr = to_csr(op.weight)
    return {
        **tensors,
        f"{index}.row_ptr": torch.from_numpy(csr.row_ptr),
        f"{index}.column": torch.from_numpy(csr.column),
        f"{index}.value": torch.from_numpy(csr.value),
    }


def unpack_program(file: Reader) -> tuple[list[Op], tuple[int, int, int], Plan]:
    """The operations, the input's shape and the plan of an open file.

    Raises:
        FormatError: The file holds no program, or one that cannot be.
    """
    if "program" not in list(file):
        raise FormatError(
            f"{file.path} holds no compiled program: billhook.load gives its tensors, "
            "billhook.save(billhook.compile(...), path) writes programs"
        )
    try:
        data = json.loads(bytes(file.tensor("program").numpy()))
        if data["version"] != VERSION:
            raise ConfigurationError(f"the program has version {data['version']!r}, not {VERSION}")
        plan = Plan.from_dict(data["plan"])
        ops = [_op(file, index, dict(settings), plan) for index, settings in enumerate(data["ops"])]
        channels, height, width = (int(side) for side in data["shape"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{file.path}: the program cannot be read ({error})") from error
    return ops, (channels, height, width), plan


def _op(file: Reader, index: int, settings: dict[str, Any], plan: Plan) -> Op:
    kind = _KINDS[settings.pop("type")]
    shape = settings.pop("weight_shape", None)
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
    }
    if shape is not None:
        names = set(file)
        dense = plan.layers[settings["name"]].kernel == "dense"
        values["weight"] = (
            file.tensor(f"{index}.weight") if dense else _sparse(file, index, tuple(shape))
        )
        values["bias"] = file.tensor(f"{index}.bias") if f"{index}.bias" in names else None
    return kind(**values)


def _sparse(file: Reader, index: int, shape: tuple[int, ...]) -> SparseWeight:
    """A weight's nonzeros, checked: the kernels read wherever these numbers point."""
    row_ptr, column, value = (
        file.tensor(f"{index}.{part}").numpy() for part in ("row_ptr", "column", "value")
    )
    columns = int(np.prod(shape[1:], dtype=np.int64))
    sound = (
        row_ptr.shape == (shape[0] + 1,)
        and row_ptr.dtype == np.int32
        and value.dtype == np.float32
        and column.shape == value.shape == (row_ptr[-1],)
        and row_ptr[0] == 0
        and bool((np.diff(row_ptr) >= 0).all())
        and (len(column) == 0 or (column.min() >= 0 and column.max() < columns))
    )
    if not sound:
        raise ValueError(f"the nonzeros of operation {index} do not fit its shape {shape}")
    csr = Csr((shape[0], columns), row_ptr, narrow(column, columns), value)
    return SparseWeight(shape, csr)
