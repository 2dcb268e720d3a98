"""A third reader of programs, written from SPEC.md's chapter on steps: numpy and plain loops.

It runs the placed steps of ``run`` in float64, sample by sample, over the buffers that they name.
What a step computes of planes is what the second reader's operations compute. ``run(file,
*inputs)`` takes the bytes of a file and the inputs as the model has them.
"""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["run"]

Array = NDArray[np.float64]
Step = dict[str, Any]
READER = runpy.run_path(str(Path(__file__).with_name("independent_program.py")))
EXTENTS = {"across_channels": 0, "across_rows": 1, "within_row": 2}
NUMBERS = (
    *("channels", "in_height", "in_width", "height", "width", "kernel_height", "kernel_width"),
    *("stride_height", "stride_width", "pad_top", "pad_left", "count_padding", "dims", "pixels"),
)


def run(file: bytes, *inputs: NDArray[Any]) -> list[Array]:
    """The network's outputs."""
    tensors = READER["read"](file)
    text = json.loads(tensors["program"][2])
    space = np.zeros(text["run"]["workspace"])
    ports, samples = text["outputs"], []
    known = [np.moveaxis(x, p["axis"], 0) for x, p in zip(inputs, text["inputs"], strict=True)]
    for s in range(len(known[0])):
        outputs = [np.zeros(int(np.prod(port["shape"]))) for port in ports]
        buffers = [space, constants(text["run"]["constants"], tensors)]
        machine = Machine([*buffers, *(x[s].reshape(-1) for x in known), *outputs], tensors)
        for step in text["run"]["steps"]:
            machine.step({**dict.fromkeys(NUMBERS, 0), **step})
        samples.append({port["value"]: y for port, y in zip(ports, outputs, strict=True)})
    return [READER["output"](port, samples) for port in ports]


def constants(places: dict[str, Any], tensors: dict[str, Any]) -> Array:
    """Their buffer."""
    buffer = np.zeros(places["size"])
    for name, start in places["at"].items():
        data = READER["floats"](tensors, name).reshape(-1)
        buffer[start : start + len(data)] = data
    return buffer


class Machine:
    """Buffers, and the steps that work on them."""

    def __init__(self, buffers: list[NDArray[Any]], tensors: dict[str, Any]) -> None:
        self.buffers, self.tensors = buffers, tensors

    def step(self, s: Step) -> None:
        """Runs one."""
        getattr(self, s["op"], lambda s: self.map(s, OF_MAPS[s["op"]]))(s)

    def places(self, view: list[int], c: int, h: int, w: int) -> NDArray[np.int64]:
        """Where the elements (c, i, j) of planes are."""
        _, offset, plane, pitch = view
        i, j, k = np.ogrid[:c, :h, :w]
        found: NDArray[np.int64] = offset + i * plane + j * pitch + k
        assert found.max() < len(self.buffers[view[0]])
        return found

    def planes(self, view: list[int], c: int, h: int, w: int) -> Array:
        """Planes, read."""
        found: Array = self.buffers[view[0]][self.places(view, c, h, w)]
        return found

    def put(self, s: Step, y: Array) -> None:
        """Planes, written up to their pitch."""
        view, ends = s["y"], s["y"][3] - y.shape[2]
        if ends > 0:
            y = np.pad(y, ((0, 0), (0, 0), (0, ends)))
        self.buffers[view[0]][self.places(view, *y.shape)] = y

    def vector(self, view: list[int], size: int) -> Array:
        """Consecutive elements."""
        found: Array = self.planes(view, 1, 1, size)[0, 0]
        return found

    def given(self, view: list[int] | None, size: int) -> Array | None:
        """The same, None where there is no view."""
        return None if view is None else self.vector(view, size)

    def weight(self, s: Step) -> tuple[Array, Array | None]:
        """A step's weight and bias."""
        floats = READER["floats"]
        return floats(self.tensors, s["weight"]), floats(self.tensors, s.get("bias", ""))

    # Steps that do not work on whole planes.

    def map(self, s: Step, function: Callable[[Step, Array], Array]) -> None:
        """A function of planes."""
        self.put(s, function(s, self.planes(s["x"], s["channels"], s["in_height"], s["in_width"])))

    def copy(self, s: Step) -> None:
        """Planes in phases."""
        x = self.planes(s["x"], s["channels"], s["in_height"], s["in_width"])
        sh, sw, (h, w) = s["stride_height"], s["stride_width"], (s["height"], s["width"])
        _, offset, plane, pitch = s["y"]
        for a in range(sh):
            for b in range(sw):
                part = x[:, a::sh, b::sw][:, :h, :w]
                y = np.pad(part, ((0, 0), (0, h - part.shape[1]), (0, w - part.shape[2])))
                start = offset + (a * sw + b) * (plane // (sh * sw))
                self.put({"y": [s["y"][0], start, plane, pitch]}, y)

    def mean(self, s: Step) -> None:
        """Of each plane one number, where it begins."""
        x = self.planes(s["x"], s["channels"], s["in_height"], s["in_width"])
        self.buffers[s["y"][0]][self.places(s["y"], len(x), 1, 1)] = x.mean((1, 2), keepdims=True)

    def add(self, s: Step) -> None:
        """A sum, or one value, and the activation."""
        size = s["channels"], s["height"], s["width"]
        y = self.planes(s["x"], *size)
        if "addend" in s:
            y = y + self.planes(s["addend"], *size)
        self.put(s, READER["activate"](y, s.get("activation", "none")))

    def fill(self, s: Step) -> None:
        """One number everywhere."""
        number = s.get("parameters", [0.0])[0]
        self.put(s, np.full((s["channels"], s["height"], s["width"]), number))

    def pointwise(self, s: Step) -> None:
        """A function of each element."""
        x = self.planes(s["x"], s["channels"], s["height"], s["width"])
        op = {"function": s["function"], "parameters": s.get("parameters", [0.0, 0.0])}
        self.put(s, READER["elementwise"](op, [x]))

    def binary(self, s: Step) -> None:
        """Of two."""
        size = s["channels"], s["height"], s["width"]
        wide = s.get("from", [0])[0]
        other = self.planes(s["addend"], *size[:2], s["width"] if wide else 1)
        op = {"function": s["function"], "parameters": s.get("parameters", [0.0, 0.0])}
        y = READER["binary"](op, [self.planes(s["x"], *size), other])
        self.put(s, READER["activate"](y, s.get("activation", "none")))

    def rearrange(self, s: Step) -> None:
        """Elements in another order, then zeros up to the pitch."""
        dims = range(s["dims"])
        sizes = [s["size"][d] for d in dims]
        read, written = (
            np.array([v[1] + sum(i[d] * s[to][d] for d in dims) for i in np.ndindex(*sizes)])
            for v, to in ((s["x"], "from"), (s["y"], "to"))
        )
        y = self.buffers[s["y"][0]]
        y[written] = self.buffers[s["x"][0]][read]
        ends = s["y"][3] - s["width"]
        if ends > 0:
            view = [s["y"][0], s["y"][1] + s["width"], *s["y"][2:]]
            y[self.places(view, s["channels"], s["height"], ends)] = 0.0

    # Products.

    def linear(self, s: Step) -> None:
        """A matrix, or a block of its columns, times a vector."""
        weight, bias = self.weight(s)
        first = s.get("first_column", 0)
        block = weight[:, first : first + 65535] if "first_column" in s else weight
        y = block @ self.vector(s["x"], block.shape[1])
        addend = self.given(s.get("addend"), len(weight))
        y = y + (0.0 if addend is None else addend)
        y = y + (0.0 if bias is None or first > 0 else bias)
        last = first + block.shape[1] == weight.shape[1]
        y = READER["activate"](y, s.get("activation", "none") if last else "none")
        self.put({"y": [*s["y"][:3], len(y)]}, y.reshape(1, 1, -1))

    def taps(self, s: Step, pixels: int, x: list[int], sums: Any) -> None:
        """Calls ``sums(m, k, weight, operand)`` for each nonzero of a weight's filters."""
        weight, taps = self.weight(s)[0], s["taps"]
        (s0, s1), (d0, d1), (q0, q1) = taps["stride"], taps["dilation"], taps["padding"]
        inputs, of_group = weight.shape[1], len(weight) // taps["groups"]
        for m, k, ky, kx in zip(*np.nonzero(weight), strict=True):
            dy, dx, c = ky * d0 - q0, kx * d1 - q1, m // of_group * inputs + k
            o = (c * s0 * s1 + dy % s0 * s1 + dx % s1) * taps["plane"]
            start = x[1] + o + dy // s0 * taps["pitch"] + dx // s1
            assert start >= 0
            sums(m, k, weight[m, k, ky, kx], self.buffers[x[0]][start : start + pixels])

    def spmm(self, s: Step) -> None:
        """A convolution over padded planes, or over what a depthwise one makes of them."""
        weight, bias = self.weight(s)
        pixels = s["pixels"]
        y = np.zeros((len(weight), pixels)) + (0.0 if bias is None else bias[:, None])

        def add(m: int, k: int, number: float, x: Array) -> None:
            y[m] += number * x

        if "fill" in s:
            fill, own = s["fill"], self.weight(s["fill"])[1]
            operand = np.zeros((weight.shape[1], pixels)) + (0.0 if own is None else own[:, None])

            def put(m: int, _: int, number: float, x: Array) -> None:
                operand[m] += number * x

            self.taps(fill, pixels, s["x"], put)
            operand = READER["activate"](operand, fill.get("activation", "none"))
            y += weight.reshape(len(weight), -1) @ operand
        else:
            self.taps(s, pixels, s["x"], add)
        y = READER["activate"](y, s.get("activation", "none"))
        if "keep" in s:
            height, width, pitch = s["keep"]
            p = np.arange(pixels)
            y[:, (p % pitch >= width) | (p // pitch >= height)] = 0.0
        self.put({"y": [*s["y"][:3], pixels]}, y[:, None, :])

    def depthwise(self, s: Step) -> None:
        """One filter a channel, from unpadded planes."""
        weight, bias = self.weight(s)
        x = self.planes(s["x"], s["channels"], s["in_height"], s["in_width"])
        h, w, top, left = s["height"], s["width"], s["pad_top"], s["pad_left"]
        stride = s["stride_height"], s["stride_width"]
        rest = [max(0, n * m + k) for n, m, k in zip((h, w), stride, weight.shape[2:], strict=True)]
        op: Step = {"padding": [top, left, *rest], "stride": stride, "dilation": [1, 1]}
        op |= {"groups": len(weight), "shape": [len(weight), h, w]}
        y = READER["conv"](op, [x], weight, bias)
        self.put(s, READER["activate"](y, s.get("activation", "none")))

    def matmul(self, s: Step) -> None:
        """A product for each group."""
        (g, m, k, n), own, to = s["size"][:4], s["from"], s["to"]
        a, b, y = (s[name][1] for name in ("x", "addend", "y"))
        i, j, t, c = np.arange(g)[:, None, None], np.arange(m), np.arange(k), np.arange(n)
        left = self.buffers[s["x"][0]][a + i * own[0] + j[:, None] * own[1] + t * own[2]]
        right = self.buffers[s["addend"][0]][b + i * to[0] + t[:, None] * to[1] + c]
        self.buffers[s["y"][0]][y + i * to[2] + j[:, None] * to[3] + c] = left @ right

    def attention(self, s: Step) -> None:
        """Heads of queries, keys and values; the mask by strides of its own."""
        heads, key_heads, d, e = s["size"][:4]
        given = [
            self.planes(s["x"], heads * d, 1, s["width"]),
            self.planes(s["addend"], key_heads * d, 1, s["in_width"]),
            self.planes(s["extra"], key_heads * e, 1, s["in_width"]),
        ]
        op = {"heads": heads, "key_heads": key_heads, "scale": s["parameters"][0]}
        op |= {"causal": s["function"] == "causal", "masked": "mask" in s}
        if "mask" in s:
            h, k, q = np.ogrid[:heads, : s["in_width"], : s["width"]]
            own = s.get("from", [0, 0, 0])
            places = s["mask"][1] + h * own[0] + k * own[1] + q * own[2]
            given.append(self.buffers[s["mask"][0]][places])
        self.put(s, READER["attention"](op, given)[:, None, :])

    def normalise(self, s: Step) -> None:
        """Over channels, groups or a row, then by the vectors."""
        c, h, w = s["channels"], s["height"], s["width"]
        x, size = self.planes(s["x"], c, h, w), s.get("size", [0, 0])
        own = x if s["function"] == "across_channels" else x.reshape(size[0], -1)
        row = s["function"] == "within_row"
        vectors = [self.given(s.get(n), w if row else c) for n in ("addend", "extra")]
        op = {"centred": size[1] != 0, "eps": s.get("parameters", [0.0])[0], "shape": x.shape}
        axes = (0,) if s["function"] == "across_channels" else (1,)
        y = READER["scaled"]({**op, "scaled": False, "shifted": False}, own, axes, [own])
        scale, shift = (v if v is None or row else v[:, None, None] for v in vectors)
        y = y * (1.0 if scale is None else scale) + (0.0 if shift is None else shift)
        self.put(s, y)

    def embed(self, s: Step) -> None:
        """Rows of a table."""
        index = self.vector(s["x"], s["width"])
        table = self.planes(s["addend"], 1, s["in_height"], s["channels"])
        self.put(s, READER["embed"]({}, [index, table])[:, None, :])

    def cast(self, s: Step) -> None:
        """An input's numbers."""
        self.put(s, self.buffers[s["x"][0]][: s["width"]].astype(np.float64).reshape(1, 1, -1))

    def lstm(self, s: Step) -> None:
        """One direction of a layer."""
        (weight, bias), size = self.weight(s), s.get("size", [0, 0])
        given = [self.planes(s["x"], len(weight), 1, s["width"])]
        states = [self.given(s.get(name), weight.shape[1]) for name in ("addend", "extra")]
        given += [np.zeros(weight.shape[1]) if state is None else state for state in states]
        op = {"cell": s["op"], "reverse": size[0] == 1, "cells": size[1] == 1}
        self.put(s, READER["recurrent"](op, given, weight, bias)[:, None, :])

    gru = lstm


def pool(s: Step, x: Array) -> Array:
    """Windows."""
    op = {"kernel": (s["kernel_height"], s["kernel_width"]), "count_padding": s["count_padding"]}
    op |= {"stride": (s["stride_height"], s["stride_width"])}
    op |= {"padding": (s["pad_top"], s["pad_left"]), "kind": s["op"].split("_")[0]}
    op |= {"shape": (len(x), s["height"], s["width"])}
    y: Array = READER["pool"](op, [x])
    return y


def softmax(s: Step, x: Array) -> Array:
    """Along an axis."""
    op = {"axis": EXTENTS[s["function"]], "logarithm": s.get("size", [0])[0] == 1}
    y: Array = READER["soft"](op, [x])
    return y


def reduce(s: Step, x: Array) -> Array:
    """One plane."""
    y: Array = READER["reduce"]({"kind": s["function"]}, [x])
    return y


def resize(s: Step, x: Array) -> Array:
    """Interpolation."""
    op = {"scales": s["parameters"], "corners": s["function"] == "corners"}
    y: Array = READER["resize"](op | {"shape": (len(x), s["height"], s["width"])}, [x])
    return y


OF_MAPS: dict[str, Callable[[Step, Array], Array]] = {
    "max_pool": pool,
    "average_pool": pool,
    "softmax": softmax,
    "reduce": reduce,
    "resize": resize,
}
