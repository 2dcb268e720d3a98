"""A reader of programs in 8 bits, written from SPEC.md: numpy and plain loops.

It runs the placed steps of ``run`` over bytes. ``run(file, x)`` takes the bytes of a file and
samples. Sums are exact, and every number of fp32 is rounded as the specification says: results
have the bits of any other reader's.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["run"]

Array = NDArray[Any]
Step = dict[str, Any]
READER = runpy.run_path(str(Path(__file__).with_name("independent_program.py")))
f32 = np.float32
NUMBERS = (
    *("channels", "first", "pixels", "count_padding", "relu", "by_sample", "by_channel"),
    *("zero", "addend_zero"),
)
FACTORS = ("scale", "addend_scale", "shift")


def run(file: bytes, x: Array) -> Array:
    """The network's output for samples, in the first dimension."""
    tensors = READER["read"](file)
    text = json.loads(tensors["program"][2])
    program, made = text["run"], text["outputs"][0]["shape"]
    space = np.zeros(program["workspace"], np.uint8)
    y = np.zeros((len(x), int(np.prod(made))), f32)
    for s in range(0, len(x), program["at_once"]):
        some = x[s : s + program["at_once"]]
        result = np.zeros((len(some), y.shape[1]), f32).reshape(-1)
        machine = Machine(tensors, space, some.astype(f32).reshape(-1), result)
        for step in program["steps"]:
            own = {**dict.fromkeys((*NUMBERS, *FACTORS), 0), **step}
            own |= {name: f32(own[name]) for name in FACTORS}
            own["on_map"] = own["pixels"] > 1
            if program["at_once"] > 1:
                own["pixels"] = len(some)
            getattr(machine, step["op"])(own)
        y[s : s + len(some)] = result.reshape(len(some), -1)
    return y.reshape(len(x), *made)


def to_bytes(values: Array) -> Array:
    """The nearest byte, even ones where two are as near."""
    nearest: Array = np.rint(np.clip(values, f32(0), f32(255))).astype(np.uint8)
    return nearest


class Machine:
    """The workspace, the input and the result, and the steps that work on them."""

    def __init__(self, tensors: dict[str, Any], *buffers: Array) -> None:
        self.tensors, self.buffers = tensors, buffers

    # What views mean.

    def places(self, view: list[int], channels: int, pixels: int) -> NDArray[np.int64]:
        """Where pixel p of channel c is, of a map."""
        c, p = np.ogrid[:channels, :pixels]
        found: NDArray[np.int64] = view[1] + c // 4 * view[2] + 4 * p + c % 4
        assert view[0] == 0
        assert found.max() < len(self.buffers[0])
        return found

    def map(self, view: list[int], channels: int, pixels: int) -> Array:
        """Its bytes."""
        found: Array = self.buffers[0][self.places(view, channels, pixels)]
        return found

    def put(self, view: list[int], values: Array) -> None:
        """Bytes, in a map."""
        self.buffers[0][self.places(view, *values.shape)] = to_bytes(values)

    def floats(self, view: list[int], count: int) -> Array:
        """Consecutive ones."""
        buffer, offset, _ = view
        found = self.buffers[buffer].view(f32)[offset // 4 : offset // 4 + count]
        assert len(found) == count
        return found

    def weight(self, s: Step) -> tuple[Array, Array, Array]:
        """The matrix, the biases and the factors of a layer."""
        found = []
        for name, kind in (("weight", np.int8), ("bias", np.int32), ("factors", f32)):
            _, shape, raw = self.tensors[s[name]]
            found.append(np.frombuffer(raw, kind).reshape(shape))
        return found[0].astype(np.int64), found[1].astype(np.int64), found[2]

    # Borders to fp32.

    def quantise(self, s: Step) -> None:
        """Floats in planes, or pixel by pixel, as a map."""
        x = self.floats(s["x"], s["channels"] * s["pixels"])
        shape = (s["pixels"], s["channels"])
        planes = x.reshape(shape).T if s["by_sample"] else x.reshape(shape[::-1])
        self.put(s["y"], planes * s["scale"] + s["shift"])

    def quantise_vector(self, s: Step) -> None:
        """Floats as bytes one after another."""
        y = to_bytes(self.floats(s["x"], s["channels"]) * s["scale"] + s["shift"])
        self.buffers[0][s["y"][1] : s["y"][1] + len(y)] = y

    def dequantise(self, s: Step) -> None:
        """A map as floats."""
        x = self.map(s["x"], s["channels"], s["pixels"]).astype(f32)
        y = (x - s["shift"]) * s["scale"]
        self.floats(s["y"], y.size)[:] = (y.T if s["by_sample"] else y).reshape(-1)

    # Layers.

    def windows(self, s: Step, channels: int) -> tuple[Array, Array]:
        """(taps, channels, pixels) of a map, and which of them lie inside (taps, pixels)."""
        w = s["window"]
        x = self.map(s["x"], channels, w["in_height"] * w["in_width"])
        i, j = (n.reshape(-1) for n in np.indices((w["height"], w["width"])))
        taken, known = [], []
        for ky, kx in np.ndindex(w["kernel_height"], w["kernel_width"]):
            row = i * w["stride_height"] + ky * w["dilation_height"] - w["pad_top"]
            column = j * w["stride_width"] + kx * w["dilation_width"] - w["pad_left"]
            inside = (row >= 0) & (row < w["in_height"]) & (column >= 0) & (column < w["in_width"])
            at = np.where(inside, row * w["in_width"] + column, 0)
            taken.append(np.where(inside, x[:, at], w["zero"]))
            known.append(inside)
        return np.stack(taken).astype(np.int64), np.stack(known)

    def conv(self, s: Step) -> None:
        """A convolution, and a map that is added before its results are rounded."""
        weight, bias, factors = self.weight(s)
        rows, inputs = weight.shape[:2]
        groups = s["groups"]
        if s["window"]["kernel_height"] * s["window"]["kernel_width"] == 1 and "gather" not in s:
            taps = self.map(s["x"], s["channels"], s["pixels"])[None].astype(np.int64)
        else:
            taps, _ = self.windows(s, inputs * groups)
        sums = np.repeat(bias[:, None], taps.shape[2], 1)
        for m in range(rows):
            first = m // (rows // groups) * inputs
            for t in range(len(taps)):
                sums[m] += weight[m].reshape(inputs, -1)[:, t] @ taps[t, first : first + inputs]
        y = sums.astype(f32) * factors[:, None]
        if "addend" in s:
            y = y + self.map(s["addend"], *y.shape).astype(f32) * s["addend_scale"]
        self.put(s["y"], y)

    depthwise = conv

    def linear(self, s: Step) -> None:
        """A matrix times a vector of bytes, or times each pixel of a map; floats."""
        weight, bias, factors = self.weight(s)
        columns, pixels = s["channels"], s["pixels"]
        if s["on_map"]:
            x = self.map(s["x"], columns, pixels)
        else:
            x = self.buffers[0][s["x"][1] : s["x"][1] + columns][:, None]
        y = (weight @ x.astype(np.int64) + bias[:, None]).astype(f32) * factors[:, None]
        if s["relu"]:
            y = np.maximum(y, f32(0))
        self.floats(s["y"], y.size)[:] = y.T.reshape(-1)

    # Maps.

    def max_pool(self, s: Step) -> None:
        """Of the bytes inside of each window."""
        x, inside = self.windows(s, s["channels"])
        self.put(s["y"], np.where(inside[:, None], x, 0).max(0))

    def average_pool(self, s: Step) -> None:
        """Of all bytes of each window, or of those inside."""
        x, inside = self.windows(s, s["channels"])
        if s["count_padding"]:
            sums, count = x.sum(0), np.full(x.shape[2], len(x))
        else:
            sums, count = np.where(inside[:, None], x, 0).sum(0), inside.sum(0)
        self.put(s["y"], sums.astype(f32) * (f32(1) / count.astype(f32)))

    def mean(self, s: Step) -> None:
        """Of each channel, a vector of bytes."""
        sums = self.map(s["x"], s["channels"], s["pixels"]).astype(np.int64).sum(1)
        y = to_bytes(sums.astype(f32) * s["scale"] + s["shift"])
        self.buffers[0][s["y"][1] : s["y"][1] + len(y)] = y

    def add(self, s: Step) -> None:
        """Of one or two maps, with other ranges."""
        y = self.map(s["x"], s["channels"], s["pixels"]).astype(f32) * s["scale"]
        if "addend" in s:
            other = self.map(s["addend"], s["channels"], s["pixels"]).astype(f32)
            y = y + other * s["addend_scale"]
        self.put(s["y"], y + s["shift"])

    def table(self, s: Step) -> None:
        """Another byte for each."""
        found = np.frombuffer(self.tensors[s["table"]][2], np.uint8)
        assert len(found) == 256
        self.put(s["y"], found[self.map(s["x"], s["channels"], s["pixels"])])

    def multiply(self, s: Step) -> None:
        """Of two maps, or of a map and a byte for each channel."""
        x = self.map(s["x"], s["channels"], s["pixels"]).astype(np.int64) - s["zero"]
        pixels = 1 if s["by_channel"] else s["pixels"]
        other = self.map(s["addend"], s["channels"], pixels).astype(np.int64) - s["addend_zero"]
        self.put(s["y"], (x * other).astype(f32) * s["scale"] + s["shift"])

    def select(self, s: Step) -> None:
        """Channels in any order."""
        index = np.frombuffer(self.tensors[s["index"]][2], np.int32)
        self.put(s["y"], self.map(s["x"], s["channels"], s["pixels"])[index])

    def copy(self, s: Step) -> None:
        """Channels of a map to others."""
        places = self.places(s["y"], s["first"] + s["channels"], s["pixels"])[s["first"] :]
        self.buffers[0][places] = self.map(s["x"], s["channels"], s["pixels"])

    def flatten(self, s: Step) -> None:
        """A map channel by channel."""
        x = self.map(s["x"], s["channels"], s["pixels"]).reshape(-1)
        self.buffers[0][s["y"][1] : s["y"][1] + len(x)] = x
