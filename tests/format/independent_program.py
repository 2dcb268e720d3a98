"""A second reader of programs, written from SPEC.md alone: numpy and plain loops, no torch.

It computes what the operations of a whole network in fp32 say, in float64; the steps and the plan
are for those who run it fast. ``run(file, *inputs)`` takes the bytes of a file and the inputs as
the model has them, and returns the outputs in the file's order.
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


def run(file: bytes, *inputs: NDArray[Any]) -> list[Array]:
    """The network's outputs."""
    tensors = read(file)
    text = json.loads(tensors["program"][2])
    assert text["version"] == 2, "another version"
    plan = text["plan"]
    assert plan["mode"] == "network", "not a whole network"
    assert plan.get("precision", "fp32") == "fp32", "not in fp32"
    known = [np.moveaxis(x, p["axis"], 0) for x, p in zip(inputs, text["inputs"], strict=True)]
    samples = []
    for s in range(len(known[0])):
        given = {-1 - k: value_of(x[s], text["inputs"][k]) for k, x in enumerate(known)}
        samples.append(sample(text["ops"], tensors, given))
    return [output(port, samples) for port in text["outputs"]]


def value_of(x: NDArray[Any], port: dict[str, Any]) -> Array:
    """What operations read of one sample of an input: maps (C, H, W), or a vector."""
    assert list(x.shape) == port["shape"], "another shape"
    x = x.astype(np.float64)
    if x.ndim < 2 or port["dtype"] != "F32":
        return x.reshape(-1)
    return x[:, None, :] if x.ndim == 2 else x.reshape(-1, *x.shape[-2:])


def output(port: dict[str, Any], samples: list[dict[int, Array]]) -> Array:
    """One output of all samples, as the model has it."""
    y = np.stack([values[port["value"]].reshape(port["shape"]) for values in samples])
    y = np.moveaxis(y, 0, port["axis"])
    if not port["merged"]:
        return y
    before, after = y.shape[: port["axis"]], y.shape[port["axis"] + 2 :]
    return y.reshape(*before, -1, *after)


def sample(ops: list[Op], tensors: dict[str, Any], values: dict[int, Array]) -> dict[int, Array]:
    """One sample's values: value -1 - k is input k, value i the result of operation i."""
    for index, op in enumerate(ops):
        weight, bias, data = (
            floats(tensors, f"{index}.{part}") for part in ("weight", "bias", "data")
        )
        given = [values[value] for value in op["inputs"]]
        result = KINDS[op["type"]](op, given, weight, bias) if data is None else data
        values[index] = activate(result, op["activation"]).reshape(op["shape"])
    return values


def floats(tensors: dict[str, Any], name: str) -> Array | None:
    """A tensor of F32, None if the file lacks it."""
    if name not in tensors:
        return None
    dtype, shape, data = tensors[name]
    assert dtype == "F32"
    return np.frombuffer(data, "<f4").astype(np.float64).reshape(shape)


def activate(y: Array, activation: str) -> Array:
    """Of a convolution any of these, of other operations one of the first three."""
    if activation in ("none", "relu", "relu6"):
        bounds = {"none": (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
        return np.clip(y, *bounds[activation])
    gate = 1 / (1 + np.exp(-y)) if activation in ("sigmoid", "silu") else np.clip(y + 3, 0, 6) / 6
    return y * gate if activation in ("silu", "hardswish") else gate


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
    """A function of each element, with the parameters a and b."""
    with np.errstate(all="ignore"):  # what is not chosen may be infinite
        result: Array = FUNCTIONS[op["function"]](given[0], *op["parameters"])
    return result


def binary(op: Op, given: list[Array], *_: None) -> Array:
    """Of two values, the second of the first one's size or 1, or one number for each channel."""
    x, other = given
    other = other.reshape(-1, 1, 1) if (x.ndim, other.ndim) == (3, 1) else other
    result: Array = BINARY[op["function"]](x, other, op["parameters"][0])
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
    y: Array = np.concatenate(given, op["axis"])
    return y


def slice_(op: Op, given: list[Array], *_: None) -> Array:
    """Some of the channels."""
    return given[0][op["first"] : op["first"] + op["shape"][0]]


def pad(op: Op, given: list[Array], *_: None) -> Array:
    """A value within a frame of one number."""
    y = np.full(op["shape"], float(op["value"]))
    sides = zip(op["before"], given[0].shape, strict=True)
    y[tuple(slice(first, first + size) for first, size in sides)] = given[0]
    return y


def scaled(op: Op, x: Array, axes: tuple[int, ...], given: list[Array]) -> Array:
    """Normalised over some axes, times one vector and plus another, where there are these."""
    if op["centred"]:
        x = x - x.mean(axes, keepdims=True)
    y = (x / np.sqrt((x * x).mean(axes, keepdims=True) + op["eps"])).reshape(op["shape"])
    wide = [v.reshape(-1, *[1] * (y.ndim - 1)) for v in given[1:]]
    if op["scaled"]:
        y = y * wide[0]
    shifted: Array = y + wide[-1] if op["shifted"] else y
    return shifted


def layer_norm(op: Op, given: list[Array], *_: None) -> Array:
    """Over the channels of each pixel, or a vector."""
    return scaled(op, given[0], (0,), given)


def group_norm(op: Op, given: list[Array], *_: None) -> Array:
    """Over groups of channels."""
    return scaled(op, given[0].reshape(op["groups"], -1), (1,), given)


def softmax(x: Array, axis: int) -> Array:
    """e^x over its sum; zeros where all are -infinity."""
    most = x.max(axis, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(most), most, 0.0))
    total = e.sum(axis, keepdims=True)
    y: Array = e / np.where(total > 0.0, total, 1.0)
    return y


def soft(op: Op, given: list[Array], *_: None) -> Array:
    """Along an axis; perhaps the logarithm."""
    x, axis = given[0], op["axis"]
    if not op["logarithm"]:
        return softmax(x, axis)
    d = x - x.max(axis, keepdims=True)
    y: Array = d - np.log(np.exp(d).sum(axis, keepdims=True))
    return y


def reduce(op: Op, given: list[Array], *_: None) -> Array:
    """One plane from all."""
    kinds: dict[str, Any] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}
    result: Array = kinds[op["kind"]](given[0], 0, keepdims=True)
    return result


def resize(op: Op, given: list[Array], *_: None) -> Array:
    """Bilinear interpolation: rows, then columns."""
    y, offset = given[0], 0.0 if op["corners"] else 0.5
    for axis in (1, 2):
        size = y.shape[axis]
        at = op["scales"][axis - 1] * (np.arange(op["shape"][axis]) + offset) - offset
        at = np.clip(at, 0, size - 1)
        first = at.astype(int)
        share = (at - first).reshape([-1 if a == axis else 1 for a in range(3)])
        second = np.minimum(first + 1, size - 1)
        y = y.take(first, axis) * (1.0 - share) + y.take(second, axis) * share
    return y


def matmul(op: Op, given: list[Array], *_: None) -> Array:
    """A product for each group; ``left`` says where its rows and terms lie in the first value."""
    groups = op["groups"]
    left, right = (x.reshape(groups, -1, *x.shape[1:]) for x in given)
    places = {"C": 1, "H": 2, "W": 3}
    m, k = (places[letter] for letter in op["left"])
    a = np.moveaxis(left, (m, k), (1, 2)).reshape(groups, left.shape[m], left.shape[k])
    y: Array = a @ right.reshape(groups, -1, right.shape[3])
    return y


def attention(op: Op, given: list[Array], *_: None) -> Array:
    """softmax(scale * query . key + mask) . value, head by head."""
    heads, shared = op["heads"], op["heads"] // op["key_heads"]
    query, key, value = (x.reshape(x.shape[0], -1) for x in given[:3])
    q = query.reshape(heads, -1, query.shape[1])
    k, v = (x.reshape(op["key_heads"], -1, x.shape[1]) for x in (key, value))
    parts = []
    for h in range(heads):
        scores = op["scale"] * (k[h // shared].T @ q[h])  # (keys, queries)
        if op["masked"]:
            scores = scores + given[3][min(h, len(given[3]) - 1)]
        if op["causal"]:
            later = np.arange(len(scores))[:, None] > np.arange(scores.shape[1])
            scores = np.where(later, -np.inf, scores)
        parts.append(v[h // shared] @ softmax(scores, 0))
    return np.concatenate(parts)


def embed(op: Op, given: list[Array], *_: None) -> Array:
    """The rows of a table that the indices name, one column each."""
    rows: Array = given[1][0][given[0].astype(int)]
    return rows.T


def recurrent(op: Op, given: list[Array], weight: Array, bias: Array | None) -> Array:
    """One direction of an LSTM or GRU, from the gates that its inputs make."""
    gates, units = given[0].reshape(given[0].shape[0], -1), weight.shape[1]
    h, c = (*given[1:], np.zeros(units), np.zeros(units))[:2]
    y = np.zeros((units * (2 if op["cells"] else 1), gates.shape[1]))
    order = range(gates.shape[1])
    for t in reversed(order) if op["reverse"] else order:
        own = weight @ h + (0.0 if bias is None else bias)
        if op["cell"] == "lstm":
            i, f, g, o = np.split(gates[:, t] + own, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (r, z, n), (ur, uz, un) = np.split(gates[:, t], 3), np.split(own, 3)
            z = sigmoid(z + uz)
            h = (1.0 - z) * np.tanh(n + sigmoid(r + ur) * un) + z * h
        y[:, t] = np.concatenate([h, c]) if op["cells"] else h
    return y


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)"""
    y: Array = (1.0 + np.tanh(x / 2.0)) / 2.0
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
    "affine": lambda x, a, b: a * x + b,
    "clamp": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "leaky_relu": lambda x, a, _: np.where(x > 0.0, x, a * x),
    "hardswish": lambda x, *_: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hardsigmoid": lambda x, *_: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "sigmoid": lambda x, *_: sigmoid(x),
    "silu": lambda x, *_: x * sigmoid(x),
    "tanh": lambda x, *_: np.tanh(x),
    "gelu": lambda x, *_: gelu(x),
    "gelu_tanh": lambda x, *_: gelu_tanh(x),
    "exp": lambda x, *_: np.exp(x),
    "elu": lambda x, a, _: np.where(x > 0.0, x, a * np.expm1(x)),
    "abs": lambda x, *_: np.abs(x),
    "sqrt": lambda x, *_: np.sqrt(x),
    "reciprocal": lambda x, *_: 1.0 / x,
    "mish": lambda x, *_: x * np.tanh(np.logaddexp(0.0, x)),
    "log": lambda x, *_: np.log(x),
    "equal": lambda x, a, _: np.where(x == a, 1.0, 0.0),
    "choose": lambda x, a, b: np.where(x != 0.0, a, b),
}
BINARY: dict[str, Any] = {
    "add": lambda x, y, _: x + y,
    "sub": lambda x, y, _: x - y,
    "mul": lambda x, y, _: x * y,
    "div": lambda x, y, _: x / y,
    "maximum": lambda x, y, _: np.maximum(x, y),
    "minimum": lambda x, y, _: np.minimum(x, y),
    "prelu": lambda x, y, _: np.where(x > 0.0, x, y * x),
    "masked_fill": lambda x, y, a: np.where(y != 0.0, a, x),
    "lt": lambda x, y, _: np.where(x < y, 1.0, 0.0),
    "le": lambda x, y, _: np.where(x <= y, 1.0, 0.0),
    "eq": lambda x, y, _: np.where(x == y, 1.0, 0.0),
    "rsub": lambda x, y, _: y - x,
    "rdiv": lambda x, y, _: y / x,
}
KINDS: dict[str, Any] = {
    "Linear": linear,
    "Conv": conv,
    "Pool": pool,
    "Other": other,
    "Elementwise": elementwise,
    "Binary": binary,
    "Rearrange": rearrange,
    "Slice": slice_,
    "Pad": pad,
    "Join": join,
    "LayerNorm": layer_norm,
    "GroupNorm": group_norm,
    "Softmax": soft,
    "Reduce": reduce,
    "Resize": resize,
    "Matmul": matmul,
    "Attention": attention,
    "Cast": lambda _, given, *__: given[0],
    "Embed": embed,
    "Recurrent": recurrent,
}
