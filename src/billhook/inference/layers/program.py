"""A model with replaced layers as tensors, and back: beside ``program.py`` for whole networks.

``model.NAME`` is a parameter or buffer that torch uses. Of a replaced layer the file has what the
dense layer has under the same name, a matrix as ``model.NAME.row_ptr``, ``.column`` and ``.value``.
The model's code is not in the file: it takes the same model to open it.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from billhook import torch_private
from billhook.errors import CompileError
from billhook.format.dtypes import dtype_name
from billhook.format.reader import Reader
from billhook.inference.layers.architecture import check_architecture, dense_tensors
from billhook.inference.layers.base import SparseLayer, Weight
from billhook.inference.layers.kinds import kind_of, make_sparse
from billhook.inference.layers.replacement import copy_with, layers_to_replace
from billhook.inference.plan import Plan
from billhook.inference.program_file import (
    PARTS,
    TEXT,
    program_text,
    read_dense,
    read_sparse,
    sparse_tensors,
)
from billhook.inference.weights.csr import SparseWeight

__all__ = [
    "PREFIX",
    "check_names",
    "check_whole",
    "join_names",
    "layer_weights",
    "module_tensors",
    "open_modules",
    "read_tensor",
    "sparse_names",
    "tensor_bytes",
]

PREFIX = "model."


def module_tensors(
    program: nn.Module,
    plan: Plan,
    architecture: Mapping[str, Any],
    example: Mapping[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors of a model with replaced layers by name."""
    tensors = program_text(plan, example, architecture=architecture)
    tensors |= {PREFIX + name: tensor.detach() for name, tensor in dense_tensors(program)}
    for name, layer in program.named_modules():
        if not isinstance(layer, SparseLayer):
            continue
        for part, weight in layer.weights.items():
            full = PREFIX + join_names(name, part)
            if isinstance(weight, SparseWeight):
                tensors |= sparse_tensors(full, weight)
            elif isinstance(weight, torch.Tensor):
                tensors[full] = weight
            else:
                tensors |= weight.tensors(full)  # of a form that layers here do not know
    return tensors


def join_names(module: str, name: str) -> str:
    """The full name of an attribute."""
    return f"{module}.{name}" if module else name


def open_modules(
    file: Reader, plan: Plan, architecture: Mapping[str, Any], model: nn.Module, isa: int
) -> nn.Module:
    """A copy of the model with the file's layers and tensors; the model's own are not read.

    Raises:
        CompileError: The model is not the one that was compiled.
        ValueError: A tensor of the file does not fit.
    """
    check_architecture(architecture, model)
    layers = layers_to_replace(model, plan.layers)
    dense = dict(dense_tensors(model, layers.values()))
    wanted = {PREFIX + name for name in dense}
    check_names(file, wanted.union(*(sparse_names(*each) for each in layers.items())))
    sparse = {
        id(layer): make_sparse(layer, plan.layers[name], isa, layer_weights(file, name, layer))
        for name, layer in layers.items()
    }
    tensors = {id(tensor): read_tensor(file, name, tensor) for name, tensor in dense.items()}
    program = copy_with(model, sparse, tensors)
    check_whole(program)
    return program


def sparse_names(name: str, layer: nn.Module) -> set[str]:
    """The tensors of a replaced layer in a file."""
    names: set[str] = set()
    for part in kind_of(layer).weight_names(layer):
        full = PREFIX + join_names(name, part)
        matrix = attrgetter(part)(layer).dim() > 1
        names |= {f"{full}.{each}" for each in PARTS} if matrix else {full}
    return names


def check_names(file: Reader, wanted: set[str]) -> None:
    """Raises CompileError unless the file has these tensors and no others."""
    different = sorted(wanted ^ (set(file) - {TEXT}))
    if different:
        has, lacks = ("file", "model") if different[0] not in wanted else ("model", "file")
        raise CompileError(
            f"the {has} has {different[0].removeprefix(PREFIX)!r} and the {lacks} does not: "
            "build the model that was compiled"
        )


def layer_weights(file: Reader, name: str, layer: nn.Module) -> dict[str, Weight]:
    """The parameters of a replaced layer."""
    weights: dict[str, Weight] = {}
    for part in kind_of(layer).weight_names(layer):
        shape, full = tuple(attrgetter(part)(layer).shape), PREFIX + join_names(name, part)
        weights[part] = (read_sparse if len(shape) > 1 else read_dense)(file, full, shape)
    return weights


def read_tensor(file: Reader, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that torch uses, in the shape and the type of the model's."""
    shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
    read = read_dense(file, PREFIX + name, shape, dtype)
    return nn.Parameter(read, requires_grad=False) if isinstance(tensor, nn.Parameter) else read


def check_whole(program: nn.Module) -> None:
    """An architecture made on "meta" has no values for tensors that are plain attributes."""
    for name, module in program.named_modules():
        for attribute, value in vars(module).items():
            leaves = torch_private.leaves(value)
            if any(torch.is_tensor(leaf) and leaf.is_meta for leaf in leaves):
                raise CompileError(
                    f"{join_names(name, attribute)} is neither a parameter nor a buffer, so the "
                    "file does not have it: register it as a buffer and compile again, or build "
                    'the model without torch.device("meta")'
                )


def tensor_bytes(program: nn.Module) -> int:
    """Bytes of the dense tensors, and of what the sparse layers have packed so far."""
    dense = sum(t.nbytes for _, t in dense_tensors(program))
    layers = [m for m in program.modules() if isinstance(m, SparseLayer)]
    return dense + sum(layer.nbytes for layer in layers)
