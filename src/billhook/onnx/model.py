"""``load_onnx``: an ONNX file as a model of torch."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from billhook.errors import FormatError
from billhook.onnx.file import Constant, File, Node, read_file
from billhook.onnx.layers import LAYERS, layer_name
from billhook.onnx.operators import Operator, ints, softmax_for
from billhook.onnx.patterns import simplified
from billhook.onnx.rearrange import OPERATORS
from billhook.onnx.shapes import NUMBERS
from billhook.torch_private import children_of

__all__ = ["OnnxModel", "load_onnx"]


def load_onnx(path: str | os.PathLike[str]) -> "OnnxModel":
    """An ONNX file as a torch.nn.Module in evaluation mode, with the weights in layers.

    Convolutions, linear and recurrent layers have the names that the file has kept, so that they
    can be pruned, fine-tuned, compiled and saved like any model's. Weights that are stored as 8-bit
    integers with scales become fp32. Activations that the file rounds to 8 bits are not rounded,
    but held in the range of their integers; a warning says how many. The operators are those that
    torch.onnx writes for the networks of
    docs/models.md.

    Args:
        path: Of a file of opset 9 or later. Treat files from strangers with care: what a model
            computes may take any time and memory.

    Raises:
        ConfigurationError: The package onnx is not installed (``pip install 'billhook[onnx]'``).
        FormatError: It is not an ONNX file, or has an operator or a setting that is not known; the
            message names the node.

    >>> import tempfile
    >>> from billhook.onnx import export_onnx
    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> export_onnx(nn.Linear(3, 2).eval(), torch.ones(1, 3), path)
    >>> load_onnx(path)(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """
    file, quantised = simplified(read_file(path))
    if quantised:
        warnings.warn(
            f"{os.fspath(path)} rounds {quantised} activations to 8 bits; here they are fp32. For "
            '8 bits: billhook.compile(..., precision="int8", calibration=batches)',
            stacklevel=2,
        )
    return OnnxModel(file).eval()


SETTINGS = ("Resize", "Upsample")  # whose further inputs are numbers, of floats too


@dataclass(frozen=True)
class _Step:
    node: Node
    module: str | None
    """The name of the layer that runs it; None for a function."""
    inputs: tuple[str, ...]
    done: tuple[str, ...]
    """Values that nothing reads afterwards."""


class OnnxModel(nn.Module):
    """Runs the nodes of a file in order.

    Attributes:
        input_names: In the order of forward's arguments.
        output_names: In the order of what forward returns; a single output is returned by itself.
    """

    def __init__(self, file: File) -> None:
        super().__init__()
        self.input_names, self.output_names = file.inputs, file.outputs
        self._softmax = softmax_for(file.opset)
        made = {value for node in file.nodes for value in node.outputs}
        unknown = [
            o for o in file.outputs if o not in made | set(file.inputs) | set(file.constants)
        ]
        if unknown:
            raise FormatError(f"nothing makes the output {unknown[0]!r}")
        self._numbers: dict[str, Any] = {}
        self._buffer_of: dict[str, str] = {}
        self._steps: list[_Step] = []
        layers: dict[tuple[Any, ...], str] = {}
        for node in file.nodes:
            inputs, name = node.inputs, None
            if node.kind in LAYERS:
                places, _ = LAYERS[node.kind]
                inputs = tuple(node.inputs[p] if p < len(node.inputs) else "" for p in places)
                key = (node.kind, node.inputs[1:4], str(node.attributes))
                name = layers.setdefault(key, "") or self._add_layer(node, file.constants)
                layers[key] = name
            elif node.kind not in OPERATORS and node.kind not in (
                "Softmax",
                "LogSoftmax",
                *NUMBERS,
            ):
                raise FormatError(f"{node} is an operator that is not known here")
            self._steps.append(_Step(node, name, inputs, ()))
        self._keep(file.constants)
        self._forget()

    def _add_layer(self, node: Node, constants: Mapping[str, Constant]) -> str:
        """A layer under its own name, or that with a number behind if it is taken."""
        layer = LAYERS[node.kind][1](node, constants)
        wanted = [part or "_" for part in layer_name(node).split(".")]
        parent: nn.Module = self
        for part in wanted[:-1]:
            inner = children_of(parent).get(part)
            if inner is None:
                inner = nn.Module()
                parent.add_module(part if not hasattr(parent, part) else f"{part}_", inner)
            parent = inner
        name, last = wanted[-1], wanted[-1]
        number = 1
        while hasattr(parent, name):
            name, number = f"{last}_{number}", number + 1
        parent.add_module(name, layer)
        return next(str(path) for path, module in self.named_modules() if module is layer)

    def _keep(self, constants: Mapping[str, Constant]) -> None:
        """Those that are read: tensors as buffers."""
        read = {value for step in self._steps for value in step.inputs} | set(self.output_names)
        settings = {v for s in self._steps if s.node.kind in SETTINGS for v in s.inputs[1:]}
        for name in sorted(read & set(constants)):
            value = constants[name]
            if torch.is_tensor(value) and name in settings:
                self._numbers[name] = value.numpy()
            elif torch.is_tensor(value):
                self._buffer_of[name] = f"constant_{len(self._buffer_of)}"
                self.register_buffer(self._buffer_of[name], value)
            else:
                self._numbers[name] = value

    def _forget(self) -> None:
        seen = set(self.output_names)
        for place in range(len(self._steps) - 1, -1, -1):
            step = self._steps[place]
            last = set(step.inputs) - seen - {""}
            seen |= last
            self._steps[place] = _Step(step.node, step.module, step.inputs, tuple(sorted(last)))

    def forward(self, *inputs: torch.Tensor) -> Any:
        if len(inputs) != len(self.input_names):
            raise FormatError(
                f"the model takes {', '.join(self.input_names)}: {len(inputs)} inputs were given"
            )
        values: dict[str, Any] = dict(self._numbers)
        values |= {name: getattr(self, own) for name, own in self._buffer_of.items()}
        values |= dict(zip(self.input_names, inputs, strict=True))
        for step in self._steps:
            outputs = self._run(step, [values[name] if name else None for name in step.inputs])
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            values.update(zip(step.node.outputs, outputs, strict=False))
            for name in step.done:
                del values[name]
        given = tuple(values[name] for name in self.output_names)
        return given[0] if len(given) == 1 else given

    def _run(self, step: _Step, given: Sequence[Any]) -> Any:
        node = step.node
        if step.module is not None:
            return self.get_submodule(step.module)(*given)
        try:
            return self._operator(node, given)(node, *given)
        except FormatError as error:
            raise FormatError(f"{node}: {error}") from error

    def _operator(self, node: Node, given: Sequence[Any]) -> Operator:
        if not any(torch.is_tensor(value) for value in given) and node.kind in NUMBERS:
            return NUMBERS[node.kind]
        if node.kind in ("Softmax", "LogSoftmax"):
            return self._softmax
        if node.kind in OPERATORS:
            return OPERATORS[node.kind]
        ints(next(value for value in given if torch.is_tensor(value)))  # says that it depends
        raise FormatError("is an operator that is not known here")
