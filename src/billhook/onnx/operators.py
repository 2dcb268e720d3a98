"""ONNX's operators as calls of torch, one function an operator or for several alike.

A function takes the node and the values of its inputs: tensors, numbers (see ``shapes``), or None.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from billhook.errors import FormatError
from billhook.onnx.file import Node
from billhook.onnx.shapes import axes_of, numpy_type

__all__ = [
    "OPERATORS",
    "Operator",
    "ints",
    "operator",
    "padding_of",
    "scalar",
    "softmax_for",
    "tensor",
]

Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}


def operator(*kinds: str) -> Callable[[Operator], Operator]:
    def note(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(kinds, function))
        return function

    return note


def ints(numbers: Any) -> list[int]:
    """Numbers as a list of Python's."""
    if torch.is_tensor(numbers):
        raise FormatError("a shape or an axis depends on the values of an input")
    return [int(n) for n in np.asarray(numbers).reshape(-1)]


def tensor(value: Any) -> torch.Tensor:
    """A tensor, of numbers too."""
    return value if torch.is_tensor(value) else torch.from_numpy(np.array(value))


def scalar(value: Any) -> float:
    if torch.is_tensor(value):
        raise FormatError("a setting of an operator depends on the values of an input")
    return float(np.asarray(value).reshape(-1)[0])


# Of one value.

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "Sign": torch.sign,
}


def _unary(node: Node, x: torch.Tensor, *_: Any) -> torch.Tensor:
    return UNARY[node.kind](x)


OPERATORS.update(dict.fromkeys(UNARY, _unary))


@operator("Identity", "Dropout")
def identity(node: Node, x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x


@operator("Cast")
def cast(node: Node, x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.from_numpy(np.zeros(1, numpy_type(node))).dtype)


@operator("Clip")
def clip(node: Node, x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    low = node.attributes.get("min", None if low is None else scalar(low))
    high = node.attributes.get("max", None if high is None else scalar(high))
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("LeakyRelu", "Elu", "Gelu", "HardSigmoid", "PRelu")
def with_setting(node: Node, x: torch.Tensor, slope: Any = None) -> torch.Tensor:
    a = node.attributes
    if node.kind == "LeakyRelu":
        return F.leaky_relu(x, a.get("alpha", 0.01))
    if node.kind == "Elu":
        return F.elu(x, a.get("alpha", 1.0))
    if node.kind == "Gelu":
        return F.gelu(x, approximate=a.get("approximate", "none"))
    if node.kind == "PRelu":
        return F.prelu(x, tensor(slope).reshape(-1))
    alpha, beta = a.get("alpha", 0.2), a.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


# Of several.

BINARY: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Equal": torch.eq,
    "Less": torch.lt,
    "Greater": torch.gt,
    "LessOrEqual": torch.le,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Mod": torch.remainder,
}
SCALARS = ("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "LessOrEqual")


def _binary(node: Node, *given: Any) -> torch.Tensor:
    x, *rest = given
    for other in rest:
        x = BINARY[node.kind](*_terms(node, x, other))
    return x  # type: ignore[no-any-return]


def _terms(node: Node, x: Any, other: Any) -> tuple[Any, Any]:
    """Two tensors; a single number beside a tensor stays one, where torch takes that."""
    beside = torch.is_tensor(x) and not torch.is_tensor(other) and node.kind in SCALARS
    if beside and np.size(other) == 1 and np.ndim(other) <= x.dim():
        return x, np.asarray(other).reshape(-1)[0].item()
    return tensor(x), tensor(other)


OPERATORS.update(dict.fromkeys(BINARY, _binary))


@operator("Div")
def divide(node: Node, x: Any, other: Any) -> torch.Tensor:
    a, b = _terms(node, x, other)
    if a.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


@operator("Sum")
def total(node: Node, x: Any, *rest: Any) -> torch.Tensor:
    x = tensor(x)
    for other in rest:
        x = x + tensor(other)
    return x  # type: ignore[no-any-return]


@operator("Where")
def where(node: Node, condition: Any, x: Any, other: Any) -> torch.Tensor:
    return torch.where(tensor(condition), tensor(x), tensor(other))


@operator("MatMul")
def matmul(node: Node, x: Any, other: Any) -> torch.Tensor:
    return torch.matmul(tensor(x), tensor(other))


@operator("billhook.Attention")
def attention(node: Node, q: Any, k: Any, v: Any, mask: Any = None) -> torch.Tensor:
    mask = None if mask is None else tensor(mask)
    return F.scaled_dot_product_attention(q, k.transpose(-1, -2), v, mask, scale=1.0)


# Normalisation and reduction.


@operator("BatchNormalization")
def batch_norm(node: Node, x: torch.Tensor, w: Any, b: Any, mean: Any, var: Any) -> torch.Tensor:
    epsilon = node.attributes.get("epsilon", 1e-5)
    mean, var, w, b = (tensor(each).float() for each in (mean, var, w, b))
    return F.batch_norm(x, mean, var, w, b, False, 0.0, epsilon)


@operator("LayerNormalization")
def layer_norm(node: Node, x: torch.Tensor, w: Any, b: Any = None) -> torch.Tensor:
    axis = node.attributes.get("axis", -1) % x.dim()
    bias = None if b is None else tensor(b)
    return F.layer_norm(x, x.shape[axis:], tensor(w), bias, node.attributes.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(node: Node, x: torch.Tensor, w: Any, b: Any) -> torch.Tensor:
    epsilon = node.attributes.get("epsilon", 1e-5)
    return F.instance_norm(x, None, None, tensor(w), tensor(b), True, 0.0, epsilon)


@operator("GroupNormalization")
def group_norm(node: Node, x: torch.Tensor, w: Any, b: Any) -> torch.Tensor:
    groups = node.attributes["num_groups"]
    w, b = tensor(w), tensor(b)
    if len(w) == groups and groups != x.shape[1]:  # of opset 18: one a group
        w, b = (each.repeat_interleave(x.shape[1] // groups) for each in (w, b))
    return F.group_norm(x, groups, w, b, node.attributes.get("epsilon", 1e-5))


def softmax_for(opset: int) -> Operator:
    """Before opset 13 the axes from ``axis`` on are one."""

    def softmax(node: Node, x: torch.Tensor) -> torch.Tensor:
        function = F.softmax if node.kind == "Softmax" else F.log_softmax
        if opset >= 13:
            return function(x, node.attributes.get("axis", -1))
        axis = node.attributes.get("axis", 1) % x.dim()
        if axis == x.dim() - 1:
            return function(x, -1)
        return function(x.flatten(axis), -1).reshape(x.shape)

    return softmax


REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": torch.linalg.vector_norm,
}


def _reduce(node: Node, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    axes = axes_of(node, (x, *rest), 1)
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return x
    keep = bool(node.attributes.get("keepdims", 1))
    return REDUCTIONS[node.kind](x, dim=axes or tuple(range(x.dim())), keepdim=keep)


OPERATORS.update(dict.fromkeys(REDUCTIONS, _reduce))


@operator("GlobalAveragePool")
def global_average(node: Node, x: torch.Tensor) -> torch.Tensor:
    return torch.mean(x, dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max(node: Node, x: torch.Tensor) -> torch.Tensor:
    return torch.amax(x, dim=tuple(range(2, x.dim())), keepdim=True)


# Pools.


def padding_of(node: Node, x: torch.Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Before and after each side."""
    a, sides = node.attributes, len(kernel)
    strides, dilations = a.get("strides", [1] * sides), a.get("dilations", [1] * sides)
    mode = a.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = list(a.get("pads", [0] * 2 * sides)) if mode == "NOTSET" else [0] * 2 * sides
        return pads[:sides], pads[sides:]
    before, after = [], []
    for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        whole = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = whole // 2, whole - whole // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


@operator("MaxPool", "AveragePool")
def pool(node: Node, x: torch.Tensor) -> torch.Tensor:
    a, kernel = node.attributes, list(node.attributes["kernel_shape"])
    sides = len(kernel)
    if sides > 2 or len(node.outputs) > 1:
        raise FormatError(f"{node} of {sides} sides and {len(node.outputs)} outputs")
    before, after = padding_of(node, x, kernel)
    is_max, counts = node.kind == "MaxPool", bool(a.get("count_include_pad", 0))
    if before != after:
        if not is_max and not counts:
            raise FormatError(f"{node} leaves out padding that is not the same on both sides")
        pads = [p for b, c in zip(before[::-1], after[::-1], strict=True) for p in (b, c)]
        x, before = F.pad(x, pads, value=-math.inf if is_max else 0.0), [0] * sides
    strides, ceil = list(a.get("strides", [1] * sides)), bool(a.get("ceil_mode", 0))
    if is_max:
        call = (F.max_pool1d, F.max_pool2d)[sides - 1]
        dilations = list(a.get("dilations", [1] * sides))
        return call(x, kernel, strides, before, dilations, ceil)
    average = (F.avg_pool1d, F.avg_pool2d)[sides - 1]
    return average(x, kernel, strides, before, ceil, counts)


@operator("Resize", "Upsample")
def resize(node: Node, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    a = node.attributes
    scales, sizes = (rest[0], None) if node.kind == "Upsample" else ([*rest, None, None][1:3])
    if sizes is not None and np.size(sizes):
        size = ints(sizes)
    else:
        factors = a.get("scales", scales)
        size = [int(n * float(s)) for n, s in zip(x.shape, factors, strict=True)]
    mode, where = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if node.kind == "Upsample":
        where = "asymmetric"
    if mode == "nearest":
        how = a.get("nearest_mode", "round_prefer_floor" if node.kind == "Resize" else "floor")
        whole = all(m % n == 0 for m, n in zip(size, x.shape, strict=True))
        if whole or (where, how) == ("asymmetric", "floor"):
            return F.interpolate(x, size[2:], mode="nearest")
    elif mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        kind = {3: "linear", 4: "bilinear"}.get(x.dim(), "trilinear")
        return F.interpolate(x, size[2:], mode=kind, align_corners=where == "align_corners")
    raise FormatError(f"{node} resizes by {mode!r} with {where!r}, which torch does not have")
