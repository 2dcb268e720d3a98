"""Convolutions and pools in the network plan against the oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.graph import INPUT, Conv, Graph, Pool
from billhook.inference.graph.depthwise import has_kernel
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice
from tests.inference import reference

from .strategies import Floats, assert_close, misaligned, sparse, values
from .test_linear_kernels import ISAS, torch_threads

maps = Graph.of_maps
pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


@st.composite
def convs(draw: st.DrawFn) -> tuple[Conv, tuple[int, int, int]]:
    """A convolution of any stride, padding, dilation and groups, and its input's shape."""
    small = st.integers(1, 3)
    groups = draw(small)
    kernel = draw(small), draw(st.integers(1, 5))
    stride, dilation = (draw(small), draw(small)), (draw(small), draw(small))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    channels, filters = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 9))
    size = draw(st.integers(1, 23)), draw(st.integers(1, 23))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padded = size[0] + padding[0] + padding[2], size[1] + padding[1] + padding[3]
    assume(all(p >= r for p, r in zip(padded, reach, strict=True)))
    out = tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    weight = draw(sparse((filters, channels // groups * kernel[0] * kernel[1])))
    bias = draw(st.none() | values((filters,)))
    conv = Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(filters, *out),
        activation=draw(st.sampled_from(kernels.CONV_ACTIVATIONS)),
        weight=torch.from_numpy(weight).reshape(filters, channels // groups, *kernel),
        bias=None if bias is None else torch.from_numpy(bias),
        stride=stride,
        padding=padding,  # type: ignore[arg-type]
        dilation=dilation,
        groups=groups,
    )
    return conv, (channels, *size)


def oracle(conv: Conv, x: Floats) -> Floats:
    bias = None if conv.bias is None else conv.bias.double().numpy()
    with np.errstate(all="ignore"):
        return reference.conv2d(
            x.astype(np.float64),
            conv.dense_weight.double().numpy(),
            bias,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            activation=conv.activation,
        ).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_convolution_equals_the_oracle(data: st.DataObject) -> None:
    conv, shape = data.draw(convs())
    x = misaligned(data.draw(values((2, *shape))), data.draw(st.integers(0, 15)))
    possible = {"spmm_packed": conv.groups == 1, "depthwise": has_kernel(conv), "spmm": True}
    kernel = data.draw(st.sampled_from([name for name, runs in possible.items() if runs]))
    choice = Choice(kernel, data.draw(st.integers(1, kernels.MAX_VECTORS)))
    wanted = np.stack([oracle(conv, sample) for sample in x])
    for isa in ISAS:
        network = Network(maps([conv], shape), {"conv": choice}, isa)
        for threads in (1, 2):
            with torch_threads(threads):
                for _ in range(2):  # a used workspace gives the same as a fresh one
                    assert_close(network(torch.from_numpy(x)), wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vectors", [2, 5, 16])
def test_a_convolution_of_several_chunks_and_blocks_equals_the_oracle(
    isa: int, vectors: int
) -> None:
    rng = np.random.default_rng(vectors)
    weight = rng.standard_normal((300, 900, 1, 1)) * (rng.random((300, 900, 1, 1)) < 0.2)
    conv = Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(300, 7, 9),
        activation="relu6",
        weight=torch.from_numpy(weight.astype(np.float32)),
        bias=torch.from_numpy(rng.standard_normal(300).astype(np.float32)),
    )
    x = rng.standard_normal((1, 900, 7, 9)).astype(np.float32)
    network = Network(
        Graph.of_maps([conv], (900, 7, 9)), {"conv": Choice("spmm_packed", vectors)}, isa
    )
    results = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            results.append(network(torch.from_numpy(x)))
    assert_close(results[0][0], oracle(conv, x[0]))
    assert all(torch.equal(results[0], other) for other in results)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_depthwise_kernel_equals_the_oracle(data: st.DataObject) -> None:
    channels, small = data.draw(st.integers(1, 9)), st.integers(1, 4)
    kernel = data.draw(small), data.draw(st.integers(1, 5))
    padding = tuple(data.draw(st.integers(0, 3)) for _ in range(4))
    size = data.draw(st.integers(4, 40)), data.draw(st.integers(5, 75))
    stride = data.draw(small), data.draw(st.integers(1, 2))
    weight = data.draw(sparse((channels, kernel[0] * kernel[1])))
    conv = Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(
            channels,
            (size[0] + padding[0] + padding[2] - kernel[0]) // stride[0] + 1,
            (size[1] + padding[1] + padding[3] - kernel[1]) // stride[1] + 1,
        ),
        activation=data.draw(st.sampled_from(kernels.CONV_ACTIVATIONS)),
        weight=torch.from_numpy(weight).reshape(channels, 1, *kernel),
        bias=torch.from_numpy(data.draw(values((channels,)))),
        stride=stride,
        padding=padding,  # type: ignore[arg-type]
        groups=channels,
    )
    x = misaligned(data.draw(values((2, channels, *size))), data.draw(st.integers(0, 15)))
    wanted = np.stack([oracle(conv, sample) for sample in x])
    for isa in ISAS:
        network = Network(
            Graph.of_maps([conv], (channels, *size)), {"conv": Choice("depthwise")}, isa
        )
        for threads in (1, 2):
            with torch_threads(threads):
                assert_close(network(torch.from_numpy(x)), wanted)


def test_a_plan_with_the_depthwise_kernel_for_another_convolution_is_an_error() -> None:
    conv = Conv("conv", (INPUT,), (8, 5, 5), weight=torch.ones(8, 3, 1, 1))
    with pytest.raises(ConfigurationError, match="runs conv by the kernel 'depthwise'"):
        Network(maps([conv], (3, 5, 5)), {"conv": Choice("depthwise")}, kernels.isa())


def test_a_plan_with_panels_for_a_convolution_of_groups_is_an_error() -> None:
    conv = Conv("conv", (INPUT,), (8, 5, 5), weight=torch.ones(8, 2, 1, 1), groups=2)
    with pytest.raises(ConfigurationError, match="runs conv by the kernel 'spmm_packed'"):
        Network(maps([conv], (4, 5, 5)), {"conv": Choice("spmm_packed")}, kernels.isa())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_filters_that_share_their_taps_equal_the_oracle(data: st.DataObject) -> None:
    """Dense filters, and 8x1 blocks: an operand is read once for several rows."""
    filters, channels = 8 * data.draw(st.integers(1, 3)), data.draw(st.integers(1, 30))
    kernel, size = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(3, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = filters, channels, kernel, kernel
    kept = rng.random((filters // 8, 1, *shape[1:])) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    weight = rng.standard_normal(shape) * kept.repeat(8, 1).reshape(shape)
    conv = Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(filters, size, size),
        activation=data.draw(st.sampled_from(kernels.CONV_ACTIVATIONS)),
        weight=torch.from_numpy(weight.astype(np.float32)),
        bias=torch.from_numpy(data.draw(values((filters,)))),
        padding=(kernel // 2,) * 4,
    )
    x = misaligned(data.draw(values((1, channels, size, size))), data.draw(st.integers(0, 15)))
    kind = data.draw(st.sampled_from(["spmm", "spmm_packed"]))
    choice = Choice(kind, data.draw(st.integers(1, kernels.MAX_VECTORS)))
    for isa in ISAS:
        network = Network(maps([conv], (channels, size, size)), {"conv": choice}, isa)
        rows = network.lowering.packed[0].blocks[0]  # type: ignore[union-attr]
        assert rows.group == (8 if kept.any() else 1)
        assert_close(network(torch.from_numpy(x))[0], oracle(conv, x[0]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_fused_depthwise_and_pointwise_pair_equals_the_oracle(data: st.DataObject) -> None:
    channels, size = data.draw(st.integers(1, 9)), data.draw(st.integers(3, 20))
    stride = data.draw(st.integers(1, 3))
    out = (size + 2 - 3) // stride + 1
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    first = Conv(
        name="depthwise",
        inputs=(INPUT,),
        shape=(channels, out, out),
        activation="relu6",
        weight=torch.from_numpy(rng.standard_normal((channels, 1, 3, 3)).astype(np.float32)),
        bias=torch.from_numpy(rng.standard_normal(channels).astype(np.float32)),
        stride=(stride, stride),
        padding=(1, 1, 1, 1),
        groups=channels,
    )
    weight = data.draw(sparse((11, channels)))
    second = Conv(
        name="pointwise",
        inputs=(0,),
        shape=(11, out, out),
        activation="relu",
        weight=torch.from_numpy(weight).reshape(11, channels, 1, 1),
    )
    x = data.draw(values((1, channels, size, size)))
    wanted = oracle(second, oracle(first, x[0]))
    plan = {"depthwise": Choice("fused"), "pointwise": Choice("spmm_packed", 3)}
    for isa in ISAS:
        y = Network(maps([first, second], (channels, size, size)), plan, isa)(torch.from_numpy(x))
        assert_close(y[0], wanted)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pools_equal_the_oracle(data: st.DataObject) -> None:
    kernel = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, kernel[0] // 2)), data.draw(st.integers(0, kernel[1] // 2))
    shape = (
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(4, 20)),
        data.draw(st.integers(4, 50)),
    )
    out = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(shape[1:], padding, kernel, stride, strict=True)
    ]
    op = Pool(
        name="pool",
        inputs=(INPUT,),
        shape=(shape[0], *out),
        kind=data.draw(st.sampled_from(["max", "average"])),
        kernel=kernel,
        stride=stride,
        padding=padding,
        count_padding=data.draw(st.booleans()),
    )
    x = data.draw(values((1, *shape)))
    with np.errstate(all="ignore"):
        wanted = reference.pool2d(
            x[0].astype(np.float64),
            op.kind,
            kernel=kernel,
            stride=stride,
            padding=padding,
            count_padding=op.count_padding,
            size=(out[0], out[1]),
        )
    assert_close(Network(maps([op], shape), {}, kernels.isa())(torch.from_numpy(x))[0], wanted)


def test_dense_choices_give_torch_results_in_the_same_program() -> None:
    torch.manual_seed(0)
    base = Conv(
        name="a",
        inputs=(INPUT,),
        shape=(8, 5, 5),
        activation="relu",
        weight=torch.randn(8, 3, 3, 3),
        bias=torch.randn(8),
        stride=(2, 2),
        padding=(0, 0, 1, 1),
    )
    second = replace(
        base,
        name="b",
        inputs=(0,),
        weight=torch.randn(8, 8, 3, 3),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
    )
    x = torch.randn(3, 3, 10, 10)
    results = [
        Network(
            Graph.of_maps([base, second], (3, 10, 10)),
            {"a": Choice(a), "b": Choice(b)},
            kernels.isa(),
        )(x)
        for a in ("dense", "spmm")
        for b in ("dense", "spmm")
    ]
    for result in results[1:]:
        assert torch.allclose(result, results[0], atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_a_wide_pointwise_layer_is_summed_in_blocks_of_channels(isa: int) -> None:
    torch.manual_seed(0)
    conv = Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(21, 7, 7),
        activation="relu6",
        weight=torch.randn(21, 600, 1, 1) * (torch.rand(21, 600, 1, 1) < 0.2),
        bias=torch.randn(21),
    )
    x = torch.randn(2, 600, 7, 7)
    network = Network(maps([conv], (600, 7, 7)), {"conv": Choice("spmm_packed", 7)}, isa)
    assert len(network.lowering.packed[0].blocks) > 1  # type: ignore[union-attr]
    assert_close(network(x), np.stack([oracle(conv, sample) for sample in x.numpy()]))
