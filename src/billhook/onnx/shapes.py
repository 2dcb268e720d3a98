"""Operators on numbers that are known before a tensor comes in: shapes and axes, with numpy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from billhook.errors import FormatError
from billhook.onnx.file import Node, Numbers

__all__ = ["NUMBERS", "axes_of", "numpy_type"]

MOST = 2**26  # elements that a file may have filled with a value

TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float32, 11: np.float32}


def numpy_type(node: Node) -> Any:
    """What the attribute ``to`` of Cast says; half and double precision are fp32 here."""
    code = node.attributes["to"]
    if code not in TYPES:
        raise FormatError(f"{node} casts to ONNX's type {code}, which is not known here")
    return TYPES[code]


def axes_of(node: Node, given: Sequence[Any], place: int) -> tuple[int, ...] | None:
    """Axes from the attribute, as older files have them, or from an input."""
    axes = node.attributes.get("axes")
    if axes is None and len(given) > place and given[place] is not None:
        axes = np.asarray(given[place]).reshape(-1)
    return None if axes is None else tuple(int(axis) for axis in axes)


def _divide(node: Node, a: Numbers, b: Numbers) -> Numbers:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return np.asarray(a / b)
    return np.asarray(np.trunc(a / b)).astype(np.int64)  # towards zero


def _slice(node: Node, x: Numbers, *rest: Numbers) -> Numbers:
    given = dict(zip(("starts", "ends", "axes", "steps"), (n.tolist() for n in rest), strict=False))
    a: dict[str, list[int]] = node.attributes | given
    count = len(a["starts"])
    axes, steps = a.get("axes", list(range(count))), a.get("steps", [1] * count)
    where = [slice(None)] * x.ndim
    for axis, first, last, step in zip(axes, a["starts"], a["ends"], steps, strict=True):
        where[axis] = slice(first, last, step)
    return x[tuple(where)]


def _squeeze(node: Node, x: Numbers, *rest: Any) -> Numbers:
    axes = axes_of(node, (x, *rest), 1)
    return np.squeeze(x, axes)


def _unsqueeze(node: Node, x: Numbers, *rest: Any) -> Numbers:
    return np.expand_dims(x, axes_of(node, (x, *rest), 1) or ())


def _filled(node: Node, shape: Numbers) -> Numbers:
    value = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    if np.prod(shape.astype(np.float64)) > MOST:
        raise FormatError(f"{node} would fill {shape.tolist()} elements, the most is {MOST}")
    return np.full(tuple(shape), fill.reshape(-1)[0])


def _range(node: Node, first: Numbers, last: Numbers, step: Numbers) -> Numbers:
    if abs(float(last) - float(first)) > MOST * abs(float(step)):
        raise FormatError(f"{node} has more than {MOST} elements")
    return np.arange(first.item(), last.item(), step.item()).astype(first.dtype)


def _elementwise(function: Callable[..., Any]) -> Callable[..., Numbers]:
    return lambda node, *given: np.asarray(function(*given))


NUMBERS: dict[str, Callable[..., Numbers]] = {
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _divide,
    "Mod": _elementwise(np.mod),
    "Pow": _elementwise(np.power),
    "Sqrt": _elementwise(np.sqrt),
    "Neg": _elementwise(np.negative),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Min": _elementwise(np.minimum),
    "Max": _elementwise(np.maximum),
    "Equal": _elementwise(np.equal),
    "Less": _elementwise(np.less),
    "Greater": _elementwise(np.greater),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Where": _elementwise(np.where),
    "Identity": _elementwise(lambda x: x),
    "Cast": lambda node, x: x.astype(numpy_type(node)),
    "Concat": lambda node, *given: np.concatenate(given, node.attributes["axis"]),
    "Gather": lambda node, x, index: np.take(x, index, node.attributes.get("axis", 0)),
    "Reshape": lambda node, x, shape: x.reshape(shape),
    "Expand": lambda node, x, shape: x * np.ones(tuple(shape), x.dtype),
    "ReduceProd": lambda node, x, *_: np.prod(x, keepdims=bool(node.attributes.get("keepdims", 1))),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ConstantOfShape": _filled,
    "Range": _range,
}
