"""Programs in 8 bits equal the integer reference, bit for bit, on every instruction set."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from billhook.errors import ConfigurationError
from billhook.inference import isa, kernels
from billhook.inference.graph import Graph, Other, UnsupportedError, capture_maps
from billhook.inference.int8 import reference
from billhook.inference.int8.calibrate import calibrate
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.ops import INPUT, Add, Conv, Flatten, Linear, Pool, Program, Range
from billhook.inference.int8.quantise import quantise
from billhook.inference.int8.ranges import Calibration
from billhook.inference.plan import INT8_KERNELS, Choice

from ..test_linear_kernels import torch_threads
from .strategies import layer, ranges

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
SETS = isa.supported("int8") if kernels.available() else ()
MATRICES = INT8_KERNELS


def equal_everywhere(program: Program, choices: dict[str, Choice], x: np.ndarray) -> None:
    """The network's results are the reference's; the fastest set runs with two threads as well."""
    wanted = np.stack([reference.evaluate(program, sample) for sample in x])
    for name in SETS:
        network = Int8Network(program, choices, name)
        for threads in (1, 2) if name == SETS[0] else (1,):
            with torch_threads(threads):
                given = network(torch.from_numpy(x)).numpy().reshape(wanted.shape)
            np.testing.assert_array_equal(given, wanted, err_msg=f"{name}, {threads} threads")


def inputs(rng: np.random.Generator, samples: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of which some lie beyond any range."""
    return (rng.standard_normal((samples, *shape)) * 3).astype(np.float32)


@st.composite
def convolutions(
    draw: st.DrawFn, depthwise: bool = False, size: tuple[int, int] | None = None
) -> Any:
    """A program of one convolution and its input."""
    small = st.integers(1, 3)
    groups = draw(st.integers(1, 9)) if depthwise else draw(small)
    kernel = (draw(small), draw(st.integers(1, 4)))
    if depthwise:
        square = st.sampled_from([3, 3, 5, 7]).map(lambda side: (side, side))
        kernel = draw(square | st.tuples(st.integers(1, 6), st.integers(1, 12)))
    stride = (draw(small), draw(st.integers(1, 2) if depthwise else small))
    dilation = (1, 1) if depthwise else (draw(small), draw(small))
    padding: Any = tuple(draw(st.integers(0, 4 if depthwise else 2)) for _ in range(4))
    per_group = 1 if depthwise else draw(st.integers(1, 6))
    filters = groups if depthwise else groups * draw(st.integers(1, 9))
    size = size or (draw(st.integers(1, 20)), draw(st.integers(1, 40)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padded = size[0] + padding[0] + padding[2], size[1] + padding[1] + padding[3]
    assume(all(p >= r for p, r in zip(padded, reach, strict=True)))
    out = tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    own, shape = draw(ranges()), (groups * per_group, *size)
    conv = Conv(
        "conv",
        (INPUT,),
        (filters, *out),
        draw(ranges()),
        **draw(layer((filters, per_group, *kernel))),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Program(shape, conv.shape, own, (conv,)), inputs(rng, draw(st.integers(1, 2)), shape)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_convolution_equals_the_reference(data: st.DataObject) -> None:
    program, x = data.draw(convolutions())
    kernel = data.draw(st.sampled_from(MATRICES))
    equal_everywhere(program, {"conv": Choice(kernel, data.draw(st.integers(1, 16)))}, x)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_depthwise_convolution_equals_the_reference(data: st.DataObject) -> None:
    program, x = data.draw(convolutions(depthwise=True))
    for kernel in ("depthwise", "1x4"):
        equal_everywhere(program, {"conv": Choice(kernel)}, x)


@pytest.mark.parametrize("size", [(150, 60), (9, 4200)])
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_a_depthwise_convolution_of_more_rows_than_are_copied_at_once(
    size: tuple[int, int], data: st.DataObject
) -> None:
    program, x = data.draw(convolutions(depthwise=True, size=size))
    equal_everywhere(program, {"conv": Choice("depthwise")}, x)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_pointwise_convolution_with_an_addend_equals_the_reference(data: st.DataObject) -> None:
    channels, side = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 14))
    filters = data.draw(st.integers(1, 70))
    own, shape = data.draw(ranges()), (channels, side, side)
    first = Conv(
        "a",
        (INPUT,),
        (filters, side, side),
        data.draw(ranges()),
        **data.draw(layer((filters, channels, 1, 1))),
    )
    second = replace(
        first,
        name="b",
        inputs=(INPUT, 0),
        addend_scale=data.draw(st.sampled_from([0.3, 1.0, 1.7])),
        **data.draw(layer((filters, channels, 1, 1))),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    choices = {
        name: Choice(data.draw(st.sampled_from(MATRICES)), data.draw(st.integers(1, 16)))
        for name in "ab"
    }
    program = Program(shape, second.shape, own, (first, second))
    equal_everywhere(program, choices, inputs(rng, 2, shape))


@st.composite
def vectors(draw: st.DrawFn) -> Any:
    """A program of one linear layer on a vector, and its input."""
    shape = (draw(st.integers(1, 70)), 1, draw(st.integers(1, 9)))
    rows, columns = draw(st.integers(1, 90)), shape[0] * shape[2]
    own = draw(ranges())
    flat = Flatten("flat", (INPUT,), (columns,), own)
    relu = draw(st.booleans())
    linear = Linear("fc", (0,), (rows,), None, **draw(layer((rows, columns))), relu=relu)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Program(shape, (rows,), own, (flat, linear)), inputs(rng, 2, shape)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_linear_layer_equals_the_reference(data: st.DataObject) -> None:
    program, x = data.draw(vectors())
    kernel = data.draw(st.sampled_from([k for k in MATRICES if k != "all_blocks"]))
    equal_everywhere(program, {"fc": Choice(kernel)}, x)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_pool_equals_the_reference(data: st.DataObject) -> None:
    kernel = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, kernel[0] - 1)), data.draw(st.integers(0, kernel[1] - 1))
    size = data.draw(st.integers(4, 20)), data.draw(st.integers(4, 40))
    out = tuple(
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride, strict=True)
    )
    own, shape = data.draw(ranges()), (data.draw(st.integers(1, 9)), *size)
    pool = Pool(
        "pool",
        (INPUT,),
        (shape[0], *out),
        own,
        kind=data.draw(st.sampled_from(["max", "average"])),
        kernel=kernel,
        stride=stride,
        padding=padding,
        count_padding=data.draw(st.booleans()),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    equal_everywhere(Program(shape, pool.shape, own, (pool,)), {}, inputs(rng, 2, shape))


class Branches(nn.Module):
    """Everything a network may have: odd channels, sums, joined maps, pools, a mean, vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.norm = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.wide = nn.Conv2d(12, 12, 1)
        self.odd = nn.Conv2d(12, 7, (1, 3), padding=(0, 1))
        self.last = nn.Conv2d(31, 20, 3, dilation=2)
        self.first, self.second = nn.Linear(20, 30), nn.Linear(30, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = F.relu6(self.wide(F.relu6(self.deep(x))) + x)
        pooled = F.avg_pool2d(F.max_pool2d(x, 3, 1, 1), 3, 1, 1)
        x = torch.cat([x, self.odd(x), pooled], 1)
        x = self.last(x).relu().mean((2, 3))
        y: torch.Tensor = self.second(self.first(x).relu())
        return y


def test_a_captured_network_equals_the_reference() -> None:
    torch.manual_seed(0)
    model = Branches().eval()
    batch = torch.randn(8, 3, 21, 19)
    with torch.no_grad():
        graph = capture_maps(model, batch[:1])
        program = quantise(graph, calibrate(graph.ops, [batch], Calibration([])))
        wanted = model(batch)
    assert not any(op.name == "add" for op in program.ops)  # the convolution before makes it
    assert any(isinstance(op, Conv) and len(op.inputs) == 2 for op in program.ops)
    for kernel in ("1x4", "all_blocks", "windows"):
        choices = {
            op.name: Choice(
                "1x4" if isinstance(op, Linear) and kernel == "all_blocks" else kernel, 3
            )
            for _, op in program.layers()
        }
        equal_everywhere(program, choices, batch.numpy())
    given = np.stack([reference.evaluate(program, sample) for sample in batch.numpy()])
    assert np.linalg.norm(given - wanted.numpy()) < 0.05 * np.linalg.norm(wanted.numpy())


def test_a_sum_and_another_range_equal_the_reference() -> None:
    rng = np.random.default_rng(0)
    own, shape = Range(0.03, 100), (6, 5, 7)
    other = Add("other", (INPUT,), shape, Range(0.02, 0))
    total = Add("total", (INPUT, 0), shape, Range(0.05, 77))
    equal_everywhere(Program(shape, shape, own, (other, total)), {}, inputs(rng, 3, shape))


def test_what_is_not_finite_or_of_another_shape_is_refused() -> None:
    shape = (4, 3, 3)
    program = Program(shape, shape, Range(0.1, 0), (Add("a", (INPUT,), shape, Range(0.1, 0)),))
    network = Int8Network(program, {}, isa.best("int8"))
    for bad in (float("nan"), float("inf")):
        x = torch.zeros(2, *shape)
        x[1, 3, 2, 2] = bad
        with pytest.raises(ConfigurationError, match="NaN or infinite"):
            network(x)
    with pytest.raises(ConfigurationError, match="compiled for"):
        network(torch.zeros(1, 4, 3, 4))
    assert torch.equal(network(torch.full((1, *shape), 1e30)), torch.full((1, *shape), 25.5))


def test_an_operation_without_a_form_in_8_bits_is_named() -> None:
    other = Other("crop", (-1,), (4, 5, 5), kind="crop")
    ranges = {-1: Range.of(0.0, 1.0), 0: Range.of(0.0, 1.0)}
    with pytest.raises(UnsupportedError, match=r"crop \(crop\) has no 8-bit form"):
        quantise(Graph.of_maps([other], (4, 5, 5)), ranges)


def test_saturation_is_counted() -> None:
    shape = (1, 2, 2)
    program = Program(shape, shape, Range(0.1, 0), (Add("a", (INPUT,), shape, Range(0.05, 0)),))
    x = np.array([[[1.0, 20.0], [30.0, 40.0]]], np.float32)
    assert reference.saturated_share(program, x) == {"the input": 0.5, "a": 0.75}
