"""A second reader of programs, written from SPEC.md alone: numpy and plain loops, no torch.

It computes what the operations of a whole network in fp32 say, in float64; the steps and the plan
are for those who run it fast. ``run(file, x)`` takes the bytes of a file and (samples, C, H, W).
"""

import json
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["run"]

Array = NDArray[np.float64]
Op = dict[str, Any]
read = runpy.run_path(str(Path(__file__).with_name("independent_reader.py")))["read"]


def run(file: bytes, x: NDArray[np.float32]) -> Array:
    """The network's output, (samples, ...)."""
    tensors = read(file)
    text = json.loads(tensors["program"][2])
    assert text["version"] == 2, "another version"
    plan = text["plan"]
    assert plan["mode"] == "network", "not a whole network"
    assert plan.get("precision", "fp32") == "fp32", "not in fp32"
    return np.stack([sample(text["ops"], tensors, each.astype(np.float64)) for each in x])


def sample(ops: list[Op], tensors: dict[str, Any], x: Array) -> Array:
    """One sample's output: value -1 is the input, value i the result of operation i."""
    values = {-1: x}
    for index, op in enumerate(ops):
        weight, bias = (floats(tensors, f"{index}.{part}") for part in ("weight", "bias"))
        given = [values[value] for value in op["inputs"]]
        result = KINDS[op["type"]](op, given, weight, bias)
        values[index] = activate(result, op["activation"]).reshape(op["shape"])
    return values[len(ops) - 1]


def floats(tensors: dict[str, Any], name: str) -> Array | None:
    """A tensor of F32, None if the file lacks it."""
    if name not in tensors:
        return None
    dtype, shape, data = tensors[name]
    assert dtype == "F32"
    return np.frombuffer(data, "<f4").astype(np.float64).reshape(shape)


def activate(y: Array, activation: str) -> Array:
    """none, relu, relu6."""
    if activation == "none":
        return y
    return np.clip(y, 0.0, 6.0 if activation == "relu6" else np.inf)


def added(y: Array, bias: Array | None) -> Array:
    """With a number for each channel."""
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 1))


def linear(op: Op, given: list[Array], weight: Array, bias: Array | None) -> Array:
    """Matrix times vector."""
    return added(weight @ given[0].reshape(-1), bias)


def conv(op: Op, given: list[Array], weight: Array, bias: Array | None) -> Array:
    """Cross-correlation, with padding of zeros at the top, left, bottom and right."""
    (x,), (top, left, bottom, right) = given, op["padding"]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    (sh, sw), (dh, dw) = op["stride"], op["dilation"]
    filters, inputs = weight.shape[:2]
    _, height, width = op["shape"]
    of_group = filters // op["groups"]
    y = np.zeros((filters, height, width))
    for f in range(filters):
        first = f // of_group * inputs
        for c, i, j in zip(*np.nonzero(weight[f]), strict=True):
            rows = padded[first + c, i * dh :: sh, j * dw :: sw]
            y[f] += weight[f, c, i, j] * rows[:height, :width]
    return added(y, bias)


def pool(op: Op, given: list[Array], *_: None) -> Array:
    """The largest value, or the mean, of each window."""
    (x,), (kh, kw), (top, left) = given, op["kernel"], op["padding"]
    (channels, height, width), (rows, columns) = op["shape"], x.shape[1:]
    y = np.zeros((channels, height, width))
    for i in range(height):
        for j in range(width):
            above, before = i * op["stride"][0] - top, j * op["stride"][1] - left
            inside = x[
                :,
                max(above, 0) : min(above + kh, rows),
                max(before, 0) : min(before + kw, columns),
            ]
            flat = inside.reshape(channels, -1)
            if op["kind"] == "max":
                y[:, i, j] = flat.max(1)
            else:
                y[:, i, j] = flat.sum(1) / (kh * kw if op["count_padding"] else flat.shape[1])
    return y


def other(op: Op, given: list[Array], *_: None) -> Array:
    """The operations without settings, by their kind."""
    kinds: dict[str, Any] = {
        "activation": lambda: given[0],
        "add": lambda: given[0] + given[1],
        "concat": lambda: np.concatenate(given),
        "flatten": lambda: given[0].reshape(-1),
        "mean": lambda: given[0].mean((1, 2)),
    }
    result: Array = kinds[op["kind"]]()
    return result


def elementwise(op: Op, given: list[Array], *_: None) -> Array:
    """A function of each element."""
    result: Array = FUNCTIONS[op["function"]](given[0])
    return result


def binary(op: Op, given: list[Array], *_: None) -> Array:
    """Of two equal values, or of a map and one number for each channel."""
    x, other = given
    other = other.reshape(-1, 1, 1) if (x.ndim, other.ndim) == (3, 1) else other
    functions: dict[str, Any] = {"mul": np.multiply, "add": np.add, "sub": np.subtract}
    result: Array = functions[op["function"]](x, other)
    return result


def rearrange(op: Op, given: list[Array], *_: None) -> Array:
    """Each element of the result from its place in what is read."""
    y = np.zeros(op["shape"])
    for index in np.ndindex(*op["sizes"]):
        read, written = list(op["start"]), [0] * y.ndim
        for d, i in enumerate(index):
            read[op["from_axes"][d]] += i * op["from_steps"][d]
            written[op["to_axes"][d]] += i * op["to_steps"][d]
        y[tuple(written)] = given[0][tuple(read)]
    return y


def join(op: Op, given: list[Array], *_: None) -> Array:
    """Values one after another along an axis."""
    return np.concatenate(given, op["axis"])


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)"""
    y: Array = 1.0 / (1.0 + np.exp(-x))
    return y


def gelu(x: Array) -> Array:
    """x times the share of a normal distribution that is below it."""
    y: Array = x * np.vectorize(math.erfc)(-x / math.sqrt(2.0)) / 2.0
    return y


def gelu_tanh(x: Array) -> Array:
    """Nearly the same."""
    y: Array = 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return y


FUNCTIONS: dict[str, Any] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "hardsigmoid": lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
}
KINDS: dict[str, Any] = {
    "Linear": linear,
    "Conv": conv,
    "Pool": pool,
    "Other": other,
    "Elementwise": elementwise,
    "Binary": binary,
    "Rearrange": rearrange,
    "Join": join,
}
