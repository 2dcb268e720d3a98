"""Several nodes that are one operation of torch: GELU, attention, a product and its bias; and
quantisation that is computed in fp32."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from billhook.errors import FormatError
from billhook.onnx.file import Constant, File, Node

__all__ = ["simplified"]


def simplified(file: File) -> tuple[File, int]:
    """The same graph with fewer nodes, and how many activations were quantised in it."""
    file, quantised = _without_quantisation(file)
    graph = _Graph(file)
    for find in (_gelu, _attention, _linear):
        for node in list(graph.nodes):
            find(graph, node)
    return replace(file, nodes=graph.used()), quantised


class _Graph:
    """Nodes by what they make and by what they read."""

    def __init__(self, file: File) -> None:
        self.nodes, self.constants, self.outputs = list(file.nodes), file.constants, file.outputs
        self._index()

    def _index(self) -> None:
        self.maker = {value: node for node in self.nodes for value in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in set(node.inputs):
                self.readers.setdefault(value, []).append(node)

    def only_reader(self, value: str, kind: str) -> Node | None:
        """The node that alone reads a value, if it is of this kind."""
        readers = self.readers.get(value, [])
        alone = len(readers) == 1 and value not in self.outputs and readers[0].kind == kind
        return readers[0] if alone else None

    def made_by(self, value: str, kind: str) -> Node | None:
        node = self.maker.get(value)
        return node if node is not None and node.kind == kind else None

    def number(self, value: str) -> float | None:
        """A constant of one element."""
        constant = self.constants.get(value)
        return (
            float(constant.reshape(-1)[0])
            if constant is not None and _size(constant) == 1
            else None
        )

    def other(self, node: Node, value: str) -> str:
        """The second term beside one."""
        return node.inputs[1] if node.inputs[0] == value else node.inputs[0]

    def put(self, last: Node, kind: str, inputs: Sequence[str], first: Node) -> None:
        """A node in the place of the last of several, with the name of the first."""
        place = self.nodes.index(last)
        self.nodes[place] = replace(
            first, kind=kind, inputs=tuple(inputs), outputs=last.outputs, attributes={}
        )
        self._index()

    def used(self) -> list[Node]:
        """Without what nothing reads."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        return kept[::-1]


def _size(constant: Constant) -> int:
    return math.prod(constant.shape)


def _gelu(graph: _Graph, erf: Node) -> None:
    """x / 2 (1 + erf(x / sqrt 2)), whichever product comes first."""
    if erf.kind != "Erf":
        return
    inner = graph.maker.get(erf.inputs[0])
    plus = graph.only_reader(erf.outputs[0], "Add")
    if inner is None or plus is None or graph.number(graph.other(plus, erf.outputs[0])) != 1.0:
        return
    scale = graph.number(inner.inputs[-1])
    wanted = {"Div": math.sqrt(2), "Mul": math.sqrt(0.5)}.get(inner.kind)
    if scale is None or wanted is None or not math.isclose(scale, wanted, rel_tol=1e-6):
        return
    x = inner.inputs[0]
    product = graph.only_reader(plus.outputs[0], "Mul")
    if product is None:
        return
    factor = graph.other(product, plus.outputs[0])
    half = graph.made_by(factor, "Mul")
    if half is not None and x in half.inputs and graph.number(graph.other(half, x)) == 0.5:
        graph.put(product, "Gelu", (x,), erf)
        return
    last = graph.only_reader(product.outputs[0], "Mul")
    if last is None:
        return
    rest = graph.other(last, product.outputs[0])
    if (factor == x and graph.number(rest) == 0.5) or (graph.number(factor) == 0.5 and rest == x):
        graph.put(last, "Gelu", (x,), erf)


def _attention(graph: _Graph, softmax: Node) -> None:
    """softmax(q k + mask) v, where rows of nothing but masks give zeros: what torch's exporter
    makes of scaled_dot_product_attention."""
    if softmax.kind != "Softmax":
        return
    weights = softmax.outputs[0]
    readers = {node.kind: node for node in graph.readers.get(weights, [])}
    if set(readers) != {"IsNaN", "Where"} or weights in graph.outputs:
        return
    where = readers["Where"]
    if where.inputs[0] != readers["IsNaN"].outputs[0] or graph.number(where.inputs[1]) != 0.0:
        return
    last = graph.only_reader(where.outputs[0], "MatMul")
    scores = graph.maker.get(softmax.inputs[0])
    mask = ""
    if scores is not None and scores.kind == "Add":
        product = graph.made_by(scores.inputs[0], "MatMul")
        mask, scores = scores.inputs[1], product
    if (
        last is None
        or scores is None
        or scores.kind != "MatMul"
        or last.inputs[0] != where.outputs[0]
    ):
        return
    graph.put(last, "billhook.Attention", (*scores.inputs, last.inputs[1], mask), softmax)


def _linear(graph: _Graph, product: Node) -> None:
    """A product with a constant matrix, and the bias added to it."""
    if product.kind != "MatMul" or not _is_matrix(graph.constants.get(product.inputs[1])):
        return
    last, inputs = product, product.inputs
    add = graph.only_reader(product.outputs[0], "Add")
    if add is not None:
        bias = graph.constants.get(graph.other(add, product.outputs[0]))
        width = graph.constants[product.inputs[1]].shape[1]
        if isinstance(bias, torch.Tensor) and tuple(bias.shape) == (width,):
            last, inputs = add, (*product.inputs, graph.other(add, product.outputs[0]))
    graph.put(last, "Gemm", inputs, product)


def _is_matrix(constant: Constant | None) -> bool:
    return isinstance(constant, torch.Tensor) and constant.dim() == 2


def _without_quantisation(file: File) -> tuple[File, int]:
    """Weights that are stored as integers become fp32; activations are not rounded, but held in
    the range that their integers have: quantisers leave out a ReLU where that ends at zero."""
    constants = dict(file.constants)
    rounded = {node.outputs[0]: node for node in file.nodes if node.kind == "QuantizeLinear"}
    nodes, quantised = [], 0
    for node in file.nodes:
        x, y = node.inputs[0] if node.inputs else "", node.outputs[0]
        if node.kind == "DequantizeLinear" and x in constants:
            constants[y] = _dequantised(node, constants)
        elif node.kind == "DequantizeLinear" and x in rounded:
            quantised += 1
            bounds = tuple(f"{y}.{end}" for end in ("least", "most"))
            constants |= dict(zip(bounds, _range(rounded[x], constants), strict=True))
            inputs = (rounded[x].inputs[0], *bounds)
            nodes.append(replace(node, kind="Clip", inputs=inputs, attributes={}))
        elif node.kind == "Identity" and x in constants:
            constants[y] = constants[x]
        else:
            nodes.append(node)
    return replace(file, nodes=nodes, constants=constants), quantised


def _range(node: Node, constants: dict[str, Constant]) -> list[Constant]:
    """The least and the largest value that an activation's integers stand for."""
    values = [constants.get(name) for name in node.inputs[1:] if name]
    if any(value is None or math.prod(value.shape) != 1 for value in values):
        raise FormatError(f"{node} has a scale that is computed, or several")
    scale, zero = np.asarray(values[0]), np.asarray(values[1]) if values[1:] else np.uint8(0)
    if zero.dtype.kind not in "iu":
        raise FormatError(f"{node} rounds to {zero.dtype}, integers are known here")
    kind = np.iinfo(zero.dtype)
    ends = ((end - int(zero.item())) * float(scale.item()) for end in (kind.min, kind.max))
    return [np.array(end, np.float32) for end in ends]


def _dequantised(node: Node, constants: dict[str, Constant]) -> Constant:
    """(x - zero) * scale along an axis."""
    missing = [value for value in node.inputs if value and value not in constants]
    if missing:
        raise FormatError(f"{node} has a scale or zero point that is computed, {missing[0]!r}")
    x, scale, *zero = (
        torch.as_tensor(np.asarray(constants[value])) for value in node.inputs if value
    )
    axis = node.attributes.get("axis", 1) % max(x.dim(), 1)
    shape = [-1 if d == axis else 1 for d in range(x.dim())] if scale.numel() > 1 else []
    offset = zero[0].float().reshape(shape) if zero else 0.0
    return (x.float() - offset) * scale.float().reshape(shape)
