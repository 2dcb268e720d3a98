"""Operators with weights as torch's layers, so that they are pruned, compiled and named as such."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from billhook.errors import FormatError
from billhook.onnx.file import Constant, Node
from billhook.onnx.operators import padding_of, tensor

__all__ = ["LAYERS", "layer_name"]

Constants = Mapping[str, Constant]


def layer_name(node: Node) -> str:
    """The source's name of the layer as well as the file has kept it.

    >>> layer_name(Node("Conv", "", ("x", "features.0.weight"), ("y",), {}))
    'features.0'
    >>> layer_name(Node("Gemm", "/encoder/layer.0/query/MatMul", ("x", "onnx::7"), ("y",), {}))
    'encoder.layer.0.query'
    """
    weight = node.inputs[1]
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    if node.scope:
        return node.scope
    if "/" in node.name:
        return ".".join(node.name.strip("/").split("/")[:-1]) or node.name.strip("/")
    return node.name or f"{node.kind.lower()}_{node.outputs[0]}"


def _tensor(node: Node, constants: Constants, place: int) -> torch.Tensor | None:
    name = node.inputs[place] if len(node.inputs) > place else ""
    if not name:
        return None
    if name not in constants:
        raise FormatError(f"{node} has a weight that is computed, {name!r}")
    return tensor(constants[name]).float()


class _Padded(nn.Module):
    """A convolution of which one side has more padding than the other."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, node: Node) -> None:
        super().__init__()
        self.conv, self.node = conv, node

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before, after = padding_of(self.node, x, self.conv.kernel_size)
        sides = zip(before[::-1], after[::-1], strict=True)
        return self.conv(F.pad(x, [p for pair in sides for p in pair]))  # type: ignore[no-any-return]


def conv(node: Node, constants: Constants) -> nn.Module:
    weight, bias = _tensor(node, constants, 1), _tensor(node, constants, 2)
    assert weight is not None
    sides, transposed = weight.dim() - 2, node.kind == "ConvTranspose"
    if sides not in (1, 2):
        raise FormatError(f"{node} is of {sides} sides: one and two are known here")
    kinds = {
        (1, False): nn.Conv1d,
        (2, False): nn.Conv2d,
        (1, True): nn.ConvTranspose1d,
        (2, True): nn.ConvTranspose2d,
    }
    kind: Any = kinds[sides, transposed]
    a, groups = node.attributes, node.attributes.get("group", 1)
    pads = list(a.get("pads", [0] * 2 * sides))
    before, after = pads[:sides], pads[sides:]
    even = before == after and a.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if transposed and (not even or "output_shape" in a):
        raise FormatError(f"{node} has padding by {a}, which torch does not have")
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    if transposed:
        outputs, inputs = weight.shape[1] * groups, weight.shape[0]
    settings: dict[str, Any] = {
        "stride": tuple(a.get("strides", [1] * sides)),
        "padding": tuple(before) if even else 0,
        "dilation": tuple(a.get("dilations", [1] * sides)),
        "groups": groups,
        "bias": bias is not None,
    }
    if transposed:
        settings["output_padding"] = tuple(a.get("output_padding", [0] * sides))
    layer = kind(inputs, outputs, tuple(weight.shape[2:]), **settings)
    _fill(layer, weight=weight, bias=bias)
    return layer if even else _Padded(layer, node)


def gemm(node: Node, constants: Constants) -> nn.Module:
    """alpha x W + beta b; of a product of any rank too."""
    a = node.attributes
    weight, bias = _tensor(node, constants, 1), _tensor(node, constants, 2)
    assert weight is not None
    if a.get("transA"):
        raise FormatError(f"{node} transposes its input")
    weight = weight if a.get("transB") else weight.t()
    if bias is not None:
        bias = (bias * a.get("beta", 1.0)).expand(len(weight)).clone()
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    _fill(layer, weight=weight * a.get("alpha", 1.0), bias=bias)
    return layer


ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # of torch's gates among ONNX's


class Recurrent(nn.Module):
    """LSTM and GRU, time first: ONNX's outputs from torch's."""

    def __init__(self, node: Node, constants: Constants) -> None:
        super().__init__()
        a, self.kind = node.attributes, node.kind
        units, direction = a["hidden_size"], a.get("direction", "forward")
        self.both, self.backward = direction == "bidirectional", direction == "reverse"
        standard = ["Sigmoid", "Tanh", "Tanh"] if node.kind == "LSTM" else ["Sigmoid", "Tanh"]
        functions = a.get("activations", standard * (2 if self.both else 1))
        odd = functions != standard * (2 if self.both else 1) or "clip" in a or a.get("layout")
        odd = odd or a.get("input_forget") or (len(node.inputs) > 7 and node.inputs[7])
        if odd or (node.kind == "GRU" and not a.get("linear_before_reset")):
            raise FormatError(f"{node} is of another form than torch's: {a}")
        inputs, hidden, bias = (_tensor(node, constants, place) for place in (1, 2, 3))
        assert inputs is not None
        assert hidden is not None
        kind: Any = nn.LSTM if node.kind == "LSTM" else nn.GRU
        self.cell = kind(inputs.shape[2], units, bias=bias is not None, bidirectional=self.both)
        for d in range(len(inputs)):
            end = "_l0" + ("_reverse" if d else "")
            parts = {"weight_ih": inputs[d], "weight_hh": hidden[d]}
            if bias is not None:
                parts |= dict(zip(("bias_ih", "bias_hh"), bias[d].chunk(2), strict=True))
            order = ORDER[node.kind]
            gates = {
                name + end: torch.cat([part.chunk(len(order))[gate] for gate in order])
                for name, part in parts.items()
            }
            _fill(self.cell, **gates)

    def forward(
        self, x: torch.Tensor, lengths: Any = None, h: Any = None, c: Any = None
    ) -> tuple[torch.Tensor, ...]:
        if lengths is not None and any(n != len(x) for n in np.asarray(lengths).reshape(-1)):
            raise FormatError("sequences of several lengths in one batch are not known here")
        state = None if h is None else tensor(h) if self.kind == "GRU" else (tensor(h), tensor(c))
        y, last = self.cell(x.flip(0) if self.backward else x, state)
        y = y.flip(0) if self.backward else y
        directions = 1 + self.both
        y = y.view(y.shape[0], y.shape[1], directions, -1).transpose(1, 2)
        return (y, last) if self.kind == "GRU" else (y, *last)


def _fill(layer: nn.Module, **parts: torch.Tensor | None) -> None:
    with torch.no_grad():
        for name, value in parts.items():
            if value is not None:
                getattr(layer, name).copy_(value)


# Which inputs a layer is called with, and how it is made.
LAYERS: dict[str, tuple[tuple[int, ...], Callable[[Node, Constants], nn.Module]]] = {
    "Conv": ((0,), conv),
    "ConvTranspose": ((0,), conv),
    "Gemm": ((0,), gemm),
    "LSTM": ((0, 4, 5, 6), Recurrent),
    "GRU": ((0, 4, 5), Recurrent),
}
