"""Functions of elements: activations, arithmetic with scalars, constants and other tensors."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from billhook.inference.graph.capture.atoms import expand, size_of
from billhook.inference.graph.capture.shapes import widened
from billhook.inference.graph.capture.trace import (
    Arguments,
    Trace,
    Value,
    constant,
    handles,
    operator_of,
)
from billhook.inference.graph.conv import Conv
from billhook.inference.graph.elementwise import Binary, Elementwise
from billhook.inference.graph.linear import Linear
from billhook.inference.graph.maps import Activation, Add
from billhook.inference.graph.ops import UnsupportedError

__all__ = ["binary", "unary"]

ABSORBING = (Conv, Linear, Add, Binary)
PLAIN = ("hardswish", "hardsigmoid", "sigmoid", "silu", "tanh", "exp", "abs", "sqrt", "mish", "log")


def unary(trace: Trace, name: str, value: Value, function: str, *parameters: float) -> Value:
    """A function of each element of a tensor."""
    shape = tuple(size_of(axis) for axis in value.axes)
    a, b = (*map(float, parameters), 0.0, 0.0)[:2]
    op = Elementwise(name, (value.number,), shape, function=function, parameters=(a, b))
    return trace.emit(op, value.axes, value.dims)


def activation(trace: Trace, node: fx.Node, source: fx.Node, kind: str) -> Value:
    """Part of the operation before it, if nothing else reads that."""
    value = trace.value(source)
    if _absorbed(trace, source, kind):
        return value
    if len(value.axes) == 3:
        shape = tuple(size_of(axis) for axis in value.axes)
        return trace.emit(
            Activation(node.name, (value.number,), shape, kind), value.axes, value.dims
        )
    return unary(trace, node.name, value, "clamp", 0.0, 6.0 if kind == "relu6" else math.inf)


def _absorbed(trace: Trace, source: fx.Node, kind: str) -> bool:
    """Makes it part of the operation before it, if that can take it and nothing else reads that."""
    number = trace.only_reader(source, ABSORBING)
    if number is None or kind not in trace.ops[number].activations:
        return False
    trace.ops[number] = replace(trace.ops[number], activation=kind)
    return True


@handles("relu")
def relu(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    return activation(trace, node, a["self"], "relu")


@handles("relu6")
def relu6(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    return activation(trace, node, a["self"], "relu6")


@handles("hardtanh")
def hardtanh(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    if (a["min_val"], a["max_val"]) == (0, 6):
        return activation(trace, node, a["self"], "relu6")
    return unary(trace, node.name, trace.value(a["self"]), "clamp", a["min_val"], a["max_val"])


@handles("clamp", "clamp_min", "clamp_max", "clip")
def clamp(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    low, high = a.get("min"), a.get("max")
    if any(isinstance(bound, fx.Node) for bound in (low, high)):
        raise UnsupportedError("clamp by tensors")
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if (low, high) in ((0, math.inf), (0, 6)):
        return activation(trace, node, a["self"], "relu" if high > 6 else "relu6")
    return unary(trace, node.name, trace.value(a["self"]), "clamp", low, high)


@handles("gelu", "elu", "leaky_relu")
def with_setting(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    value = trace.value(a["self"])
    if "approximate" in a:
        kind = "gelu_tanh" if a["approximate"] == "tanh" else "gelu"
        return unary(trace, node.name, value, kind)
    if "negative_slope" in a:
        return unary(trace, node.name, value, "leaky_relu", a["negative_slope"])
    if (a["scale"], a["input_scale"]) != (1, 1):
        raise UnsupportedError("elu with scales")
    return unary(trace, node.name, value, "elu", a["alpha"])


@handles(*PLAIN, "neg", "rsqrt", "reciprocal", "square")
def function(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    kind = operator_of(node)
    value = trace.value(a["self"])
    name = node.name
    if kind == "neg":
        return unary(trace, name, value, "affine", -1.0)
    if kind == "rsqrt":
        return unary(trace, name, unary(trace, name, value, "sqrt"), "reciprocal")
    if kind == "square":
        return binary(trace, node, (value, value), "mul")
    if _absorbed(trace, a["self"], kind):
        return value
    return unary(trace, name, value, kind)


@handles("logical_not", "bitwise_not")
def negation(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    _check_bits(node)
    return unary(trace, node.name, trace.value(a["self"]), "choose", 0.0, 1.0)


@handles("to", "_to_copy", "type_as", "float", "expand_as")
def converted(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """Numbers are fp32 whatever the type, so only fractions are lost where integers are wanted."""
    term = a["self"] if "self" in a else a["input"]
    source, made = term.meta["val"], node.meta["val"]
    if made.dtype == torch.bool:
        return widened(truth(trace, term), tuple(made.shape))
    narrow = source.dtype.is_floating_point and not made.dtype.is_floating_point
    if narrow or made.dtype.is_complex or made.dtype.itemsize == 8 > source.dtype.itemsize > 4:
        raise UnsupportedError(f"a conversion from {source.dtype} to {made.dtype}")
    return widened(trace.value(term), tuple(made.shape))


@handles("prelu", "_prelu_kernel")
def prelu(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """x, or where it is negative w x, of one w or one for each channel."""
    value, weight = trace.value(a["self"]), trace.weight(a["weight"])
    assert weight is not None
    if weight.numel() > 1 and weight.dim() == 1:
        weight = weight.view(-1, *[1] * (len(value.dims) - 2))
    return _with_other(trace, node.name, (value, constant(weight)), "prelu", 0.0)


# Two tensors.


def scalar_of(term: Any, trace: Trace) -> float | None:
    """The number that a term is, None if it is a tensor of several or computed."""
    if isinstance(term, bool | int | float):
        return float(term)
    value = trace.values.get(term) if isinstance(term, fx.Node) else term
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Value) and value.constant is not None and value.constant.numel():
        first = value.constant.flatten()[0]
        small = value.constant.dim() == 0 or value.constant.numel() == 1
        return float(first) if small else None
    return None


def binary(
    trace: Trace, node: fx.Node, terms: tuple[Any, Any], function: str, a: float = 0.0
) -> Value:
    """A function of two tensors, one of which may be broadcast along the other."""
    x, y = (trace.value(term) for term in terms)
    sizes = tuple(node.meta["val"].shape)
    turned = {"sub": "rsub", "div": "rdiv", "rsub": "sub", "rdiv": "div"}
    symmetric = ("add", "mul", "maximum", "minimum", "eq")
    whole = x.constant is None and x.sizes == sizes
    if not whole and y.constant is None and y.sizes == sizes and function in (*turned, *symmetric):
        x, y, function = y, x, turned.get(function, function)
    elif not whole:
        if x.constant is not None and function in (*turned, *symmetric):
            x, y, function = y, x, turned.get(function, function)
        x = widened(x, sizes) if x.constant is None else _broadcast(trace, x, y)
    return _with_other(trace, node.name, (x, y), function, a)


def _broadcast(trace: Trace, x: Value, y: Value) -> Value:
    """A constant along all dimensions of what is computed from it and a tensor."""
    rank = max(len(x.dims), len(y.dims))
    mine, theirs = ([()] * (rank - len(v.dims)) + [*v.dims] for v in (x, y))
    dims = [a if expand(a) else b for a, b in zip(mine, theirs, strict=True)]
    wide = replace(x, dims=tuple(dims))
    axes = trace.default_axes(wide)
    return Value(wide.dims, trace.arrange(x, axes), axes)


def _with_other(
    trace: Trace, name: str, terms: tuple[Value, Value], function: str, a: float
) -> Value:
    x, y = terms
    if y.constant is None and y.number == x.number and y.dims == x.dims:
        other = x.number
    else:
        repeated = set(trace.features(x)) - {atom for axis in x.axes for atom in expand(axis)}
        if repeated:
            axes = trace.default_axes(x)
            x = replace(x, number=trace.arrange(x, axes), axes=axes)
        other = trace.as_operand(y, x.dims, x.axes)
    shape = tuple(size_of(expand(axis)) for axis in x.axes)
    inputs = (x.number, other)
    if function == "add" and len(shape) == 3 and trace_shape(trace, other) == shape:
        return trace.emit(Add(name, inputs, shape), x.axes, x.dims)
    op = Binary(name, inputs, shape, function=function, parameters=(a, 0.0))
    return trace.emit(op, x.axes, x.dims)


def trace_shape(trace: Trace, number: int) -> tuple[int, ...] | None:
    """The shape of an operation's value; None of an input's."""
    return trace.ops[number].shape if number >= 0 else None


@handles("add", "sub", "rsub")
def add(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    kind = operator_of(node)
    first, second = a["self"], a["other"]
    if kind == "rsub":
        first, second = second, first
    alpha = float(a.get("alpha", 1))
    if kind == "rsub" and alpha != 1:
        raise UnsupportedError("rsub with alpha")
    sign = 1.0 if kind == "add" else -1.0
    number = scalar_of(second, trace)
    if number is not None:
        return unary(trace, node.name, trace.value(first), "affine", 1.0, sign * alpha * number)
    number = scalar_of(first, trace)
    if number is not None:
        return unary(trace, node.name, trace.value(second), "affine", sign * alpha, number)
    if alpha != 1:
        second = _times(trace, node, second, alpha)
    return binary(trace, node, (first, second), "add" if kind == "add" else "sub")


def _times(trace: Trace, node: fx.Node, term: Any, factor: float) -> Value:
    value = trace.value(term)
    if value.constant is not None:
        return replace(value, constant=value.constant * factor)
    return unary(trace, node.name, value, "affine", factor)


@handles("mul", "multiply")
def mul(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    first, second = a["self"], a["other"]
    for x, y in ((first, second), (second, first)):
        number = scalar_of(y, trace)
        if number is not None:
            return unary(trace, node.name, trace.value(x), "affine", number)
    return binary(trace, node, (first, second), "mul")


@handles("div", "divide", "true_divide")
def div(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    if a.get("rounding_mode") is not None:
        raise UnsupportedError("a division that rounds")
    number = scalar_of(a["other"], trace)
    if number is not None and number != 0:
        return unary(trace, node.name, trace.value(a["self"]), "affine", 1 / number)
    number = scalar_of(a["self"], trace)
    if number is not None:
        inverse = unary(trace, node.name, trace.value(a["other"]), "reciprocal")
        return inverse if number == 1 else unary(trace, node.name, inverse, "affine", number)
    return binary(trace, node, (a["self"], a["other"]), "div")


@handles("maximum", "minimum")
def extreme(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    return binary(trace, node, (a["self"], a["other"]), operator_of(node))


@handles(*("logical_and", "bitwise_and", "__and"), *("logical_or", "bitwise_or", "__or"))
def logic(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """Of what is true or false."""
    _check_bits(node)
    terms = truth(trace, a["self"]), truth(trace, a["other"])
    both = "and" in operator_of(node)
    for one, other in (terms, terms[::-1]):
        if one.constant is not None and bool((one.constant == both).all()):
            return widened(other, tuple(node.meta["val"].shape))
    return binary(trace, node, terms, "mul" if both else "maximum")


def _check_bits(node: fx.Node) -> None:
    if node.meta["val"].dtype != torch.bool:
        raise UnsupportedError("an operation on the bits of integers")


def truth(trace: Trace, term: Any) -> Value:
    """1 where a tensor is not zero, 0 where it is."""
    value = trace.value(term)
    if value.constant is not None:
        return replace(value, constant=value.constant != 0)
    if isinstance(term, fx.Node) and term.meta["val"].dtype == torch.bool:
        return value
    return unary(trace, "truth", value, "choose", 1.0, 0.0)


@handles("eq", "ne", "lt", "le", "gt", "ge")
def comparison(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    kind = operator_of(node)
    first, second = a["self"], a["other"]
    number = scalar_of(second, trace)
    if number is not None and kind in ("eq", "ne"):
        equal = unary(trace, node.name, trace.value(first), "equal", number)
        return equal if kind == "eq" else unary(trace, node.name, equal, "choose", 0.0, 1.0)
    # Of a pair the larger tensor comes first; the opposite comparison is turned round and negated.
    x, y = trace.value(first), trace.value(second)
    if x.constant is not None or x.sizes != tuple(node.meta["val"].shape):
        x, y = y, x
        kind = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}.get(kind, kind)
    negated = kind in ("gt", "ge", "ne")
    kind = {"gt": "le", "ge": "lt", "ne": "eq"}.get(kind, kind)
    result = binary(trace, node, (x, y), kind)
    return unary(trace, node.name, result, "choose", 0.0, 1.0) if negated else result


@handles("pow")
def power(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    exponent = scalar_of(a["exponent"], trace)
    value = trace.value(a["self"])
    if exponent == 0.5:
        return unary(trace, node.name, value, "sqrt")
    if exponent not in (1.0, 2.0, 3.0):
        raise UnsupportedError(f"a power of {exponent}")
    result = value
    for _ in range(int(exponent) - 1):
        result = binary(trace, node, (result, value), "mul")
    return result


@handles("masked_fill")
def masked_fill(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    number = scalar_of(a["value"], trace)
    if number is None:
        raise UnsupportedError("masked_fill with a computed value")
    known, mask = trace.value(a["self"]).constant, trace.value(a["mask"])
    if known is not None and mask.sizes == tuple(known.shape):
        if not bool((known == known.flatten()[0]).all()):
            raise UnsupportedError("masked_fill of a constant of several numbers")
        return unary(trace, node.name, mask, "choose", number, float(known.flatten()[0]))
    return binary(trace, node, (a["self"], a["mask"]), "masked_fill", number)


@handles("where")
def where(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    """Two numbers, or a tensor and a number."""
    mask, first, second = a["condition"], a.get("self"), a.get("other")
    yes, no = scalar_of(first, trace), scalar_of(second, trace)
    if yes is not None and no is not None:
        return unary(trace, node.name, trace.value(mask), "choose", yes, no)
    if yes is not None:
        return binary(trace, node, (second, mask), "masked_fill", yes)
    if no is None:
        raise UnsupportedError("where of two tensors")
    condition = trace.value(mask)
    if condition.constant is not None:
        condition = replace(condition, constant=1.0 - condition.constant.float())
    else:
        condition = unary(trace, node.name, condition, "choose", 0.0, 1.0)
    return binary(trace, node, (first, condition), "masked_fill", no)


@handles("pad", "constant_pad_nd")
def pad(trace: Trace, _: fx.Node, a: Arguments) -> Value:
    amounts, fill = list(a["pad"]), a.get("value") or 0
    if a.get("mode", "constant") != "constant" or min(amounts) < 0:
        raise UnsupportedError("a padding other than of one number around a tensor")
    value = trace.value(a["self"])
    rank = len(value.dims)
    if not fill and len(amounts) <= 4 and rank in (3, 4) and value.constant is None:
        left, right, top, bottom = [*amounts, 0, 0][:4]
        if rank == 4 or not (top or bottom):
            return replace(value, padding=(top, left, bottom, right))
    frame = {
        rank - 1 - i: (amounts[2 * i], amounts[2 * i + 1])
        for i in range(len(amounts) // 2)
        if amounts[2 * i] or amounts[2 * i + 1]
    }
    for d in frame:
        trace.without_batch(value.dims[d])
    return trace.framed(value, frame, float(fill)) if frame else value
