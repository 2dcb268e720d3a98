"""An ONNX file as plain nodes and constants, read with the package onnx."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError, FormatError

__all__ = ["Constant", "File", "Node", "Numbers", "read_file"]

Numbers = NDArray[Any]
"""What is known before a tensor comes in: shapes, axes, scalars. Computed with numpy."""
Constant = torch.Tensor | Numbers

OLDEST_OPSET = 9
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """One operator: ``inputs`` and ``outputs`` name values; "" stands for one that is left out."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    scope: str = ""
    """The module of the source that made it, where the exporter has noted that."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


@dataclass(frozen=True)
class File:
    """A graph. Inputs are in order, those with a default value left out."""

    nodes: Sequence[Node]
    constants: dict[str, Constant]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int


def read_file(path: str | os.PathLike[str]) -> File:
    """Reads a file, its external data too.

    Raises:
        ConfigurationError: The package onnx is not installed.
        FormatError: It is not an ONNX file, or of a kind that is not read here.
    """
    onnx = _package()
    if not Path(path).is_file():
        raise FormatError(f"{path} is not a file")
    try:
        proto = onnx.load(os.fspath(path))
    except Exception as error:  # protobuf's and onnx's own, of many kinds
        raise FormatError(f"{path} is not an ONNX file that can be read: {error}") from error
    if not proto.graph.node or not proto.graph.output:
        raise FormatError(f"{path} is not an ONNX file: it has no nodes or no outputs")
    opset = next((o.version for o in proto.opset_import if o.domain in DOMAINS), 0)
    if opset < OLDEST_OPSET:
        raise FormatError(
            f"{path} is of opset {opset}, the oldest that is read is {OLDEST_OPSET}: convert it "
            "with onnx.version_converter"
        )
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    constants = {t.name: _constant(onnx, t) for t in proto.graph.initializer}
    if proto.graph.sparse_initializer:
        raise FormatError(f"{path} has sparse initializers: export it with dense ones")
    nodes = []
    for node in proto.graph.node:
        made = _node(onnx, node)
        if made.kind == "Constant":
            constants[made.outputs[0]] = _value(made)
        else:
            nodes.append(made)
    inputs = tuple(given.name for given in proto.graph.input if given.name not in constants)
    return File(nodes, constants, inputs, tuple(o.name for o in proto.graph.output), opset)


def _package() -> Any:
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.inliner")
    except ImportError as error:
        raise ConfigurationError(
            "ONNX files need the package onnx: pip install 'billhook[onnx]'"
        ) from error
    return onnx


def _node(onnx: Any, proto: Any) -> Node:
    if proto.domain not in DOMAINS:
        raise FormatError(
            f"{proto.op_type} is an operator of the domain {proto.domain!r}: only ONNX's own are "
            "read"
        )
    attributes = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = _constant(onnx, value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        attributes[attribute.name] = value
    inputs, outputs = tuple(proto.input), tuple(proto.output)
    return Node(proto.op_type, proto.name, inputs, outputs, attributes, _scope(proto))


def _scope(proto: Any) -> str:
    """From the note of torch's exporter: "['', 'encoder', 'encoder.query', 'linear']"."""
    notes = {p.key: p.value for p in proto.metadata_props}
    names = notes.get("pkg.torch.onnx.name_scopes", "").strip("[]").split(", ")
    return names[-2].strip("'\"") if len(names) > 1 else ""


def _value(node: Node) -> Constant:
    """Of the operator Constant."""
    kinds = ("value", "value_float", "value_int", "value_floats", "value_ints")
    kind = next((kind for kind in kinds if kind in node.attributes), None)
    if kind is None:
        raise FormatError(f"{node} has none of {', '.join(kinds)}")
    value = node.attributes[kind]
    if kind == "value":
        return value  # type: ignore[no-any-return]
    return np.array(value, np.float32 if "float" in kind else np.int64)


def _constant(onnx: Any, proto: Any) -> Constant:
    """Integers of up to one dimension and single numbers are computed with, other tensors are
    data."""
    array = np.array(onnx.numpy_helper.to_array(proto))
    if array.dtype in (np.float16, np.float64):
        array = array.astype(np.float32)
    small = array.ndim <= 1 and (array.dtype.kind in "iub" or array.size == 1)
    return array if small else torch.from_numpy(array)
