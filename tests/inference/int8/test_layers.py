"""Matrices and layers in 8 bits: equal to integers, near to fp32, the same on every set."""

import copy
import operator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference import isa, kernels
from billhook.inference.int8.layers import make_int8
from billhook.inference.int8.matrix import Int8Matrix, Int8Weight
from billhook.inference.plan import INT8_KERNELS, Choice

from ..test_linear_kernels import torch_threads
from .strategies import weights

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
SETS = isa.supported("int8") if kernels.available() else ()
MATRICES = INT8_KERNELS
f32 = np.float32


def integer_product(
    x: np.ndarray, weight: Int8Weight, bias: np.ndarray | None, step: float
) -> np.ndarray:
    """The bytes of each sample by the weights, in int64, then fp32 as the kernels round it."""
    results = []
    for sample in x:
        largest = f32(np.abs(sample).max(initial=0))
        own = f32(step) if step else (largest / f32(127) if largest > 0 else f32(1))
        scaled = sample * (f32(1) / own) + f32(128)
        q = np.rint(scaled.clip(0, 255)).astype(np.int64) - 128
        y = (weight.value.astype(np.int64) @ q).astype(f32) * weight.step * own
        results.append(y if bias is None else y + bias)
    return np.stack(results)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_matrix_equals_integers(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    samples = data.draw(st.sampled_from([1, 2, 15, 16, 17, 35, 130]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weight = Int8Weight(data.draw(weights((rows, columns))), rng.random(rows).astype(f32))
    bias = rng.standard_normal(rows).astype(f32) if data.draw(st.booleans()) else None
    x = (rng.standard_normal((samples, columns)) * 3).astype(f32)
    x[rng.random(samples) < 0.1] = 0.0
    step = data.draw(st.sampled_from([0.0, 1 / 127, 0.05]))
    wanted = integer_product(x, weight, bias, step)
    choice = Choice(data.draw(st.sampled_from(MATRICES)), data.draw(st.integers(1, 16)))
    for name in SETS:
        matrix = Int8Matrix(weight, bias, choice, name, step)
        for threads in (1, 2) if name == SETS[0] else (1,):
            with torch_threads(threads):
                given = matrix.multiply(torch.from_numpy(x)).numpy()
            np.testing.assert_array_equal(given, wanted, err_msg=f"{name}, {threads} threads")


def pruned(module: nn.Module) -> nn.Module:
    """In evaluation mode, half of its weights zero, in blocks of four columns."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                blocks = torch.rand(weight.shape[0], -(-weight.shape[1] // 4)) < 0.5
                weight.mul_(blocks.repeat_interleave(4, 1)[:, : weight.shape[1]])
    return module.eval()


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(13, 21, 2),
        lambda: nn.LSTM(13, 20, bidirectional=True),
        lambda: nn.LSTM(13, 20, proj_size=7),
        lambda: nn.GRU(13, 21, 2, bidirectional=True),
    ],
)
def test_a_recurrent_layer_is_near_fp32_and_the_same_everywhere(make: object, batch: int) -> None:
    torch.manual_seed(0)
    module = pruned(make())  # type: ignore[operator]
    x = torch.randn(9, batch, 13)
    with torch.no_grad():
        wanted, _ = module(x)
        results = [make_int8(module, Choice("1x4", 3), name)(x) for name in SETS]
    for output, state in results:
        assert float((output - wanted).norm()) < 0.04 * float(wanted.norm())
        if not isinstance(module, nn.GRU) and batch == 1 and module.proj_size == 0:
            assert torch.equal(output, results[0][0])
            assert torch.equal(state[1], results[0][1][1])


def test_a_state_is_carried_from_call_to_call() -> None:
    torch.manual_seed(0)
    module = pruned(nn.LSTM(8, 12))
    layer, x = make_int8(module, Choice("4x4"), isa.best("int8")), torch.randn(6, 1, 8)
    with torch.no_grad():
        whole, last = layer(x)
        first, state = layer(x[:4])
        second, end = layer(x[4:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end[0], last[0])
    assert torch.equal(end[1], last[1])
    with pytest.raises(ConfigurationError, match="between -1 and 1"), torch.no_grad():
        layer(x, (torch.full((1, 1, 12), 1.5), torch.zeros(1, 1, 12)))


def test_linear_layers_and_attention_are_near_fp32() -> None:
    torch.manual_seed(0)
    linear, x = pruned(nn.Linear(40, 30)), torch.randn(2, 5, 40)
    attention = pruned(nn.MultiheadAttention(40, 4, batch_first=True))
    with torch.no_grad():
        for kernel in MATRICES:
            given = make_int8(linear, Choice(kernel), isa.best("int8"))(x)
            wanted = linear(x)
            assert float((given - wanted).norm()) < 0.02 * float(wanted.norm())
        given, _ = make_int8(attention, Choice("1x4"), isa.best("int8"))(x, x, x)
        wanted, _ = attention(x, x, x)
        assert float((given - wanted).norm()) < 0.04 * float(wanted.norm())
        layer = make_int8(linear, Choice("1x4"), isa.best("int8"))
        bias = float(torch.as_tensor(linear.bias).sum())
        assert float(layer(torch.zeros(1, 40)).sum()) == pytest.approx(bias, abs=1e-5)


@pytest.mark.parametrize("samples", [1, 3])
def test_what_is_not_finite_is_refused(samples: int) -> None:
    layer = make_int8(pruned(nn.Linear(20, 3)), Choice("1x4"), isa.best("int8"))
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.zeros(samples, 20)
        x[-1, 17] = bad
        with pytest.raises(ConfigurationError, match="NaN or infinite"):
            layer(x)
    broken = copy.deepcopy(nn.Linear(4, 2))
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        make_int8(broken, Choice("1x4"), isa.best("int8"))


def test_weights_answer_as_the_dense_ones_would() -> None:
    attention = nn.MultiheadAttention(8, 2).eval()
    for module, name in (
        (pruned(nn.Linear(6, 3)), "weight"),
        (nn.LSTM(4, 5).eval(), "weight_hh_l0"),
        (attention, "out_proj.weight"),
    ):
        dense = dict(module.named_parameters())[name].detach()
        layer = make_int8(module, Choice("1x4"), isa.best("int8"))
        given = operator.attrgetter(name)(layer)
        assert isinstance(given, torch.Tensor)
        assert (given.dtype, given.shape, given.device) == (dense.dtype, dense.shape, dense.device)
        step = dense.abs().amax(1, keepdim=True) / 127
        assert bool(((given - dense).abs() <= step / 2 + 1e-6).all())
        with pytest.raises(ConfigurationError, match="read-only"):
            given.add_(1)
    ones = nn.Linear(2, 1, bias=False)
    nn.init.constant_(ones.weight, 1.0)
    assert "weight: 2 of 1x2" in repr(make_int8(ones, Choice("1x4"), "portable"))
