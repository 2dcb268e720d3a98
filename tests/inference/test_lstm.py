"""The sparse LSTM against the oracle and against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.layers.lstm import SparseLSTM
from tests.inference import reference

from .strategies import assert_close
from .test_linear_kernels import ISAS, torch_threads

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


def pruned_lstm(seed: int, density: float, *sizes: int, **options: bool) -> nn.LSTM:
    torch.manual_seed(seed)
    lstm = nn.LSTM(*sizes, **options).eval()
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            if "weight" in name:
                parameter.mul_(torch.rand_like(parameter) < density)
    return lstm


Output = tuple[torch.Tensor | PackedSequence, tuple[torch.Tensor, torch.Tensor]]


def parts(output: Output) -> list[torch.Tensor]:
    y, (h, c) = output
    return [y.data if isinstance(y, PackedSequence) else y, h, c]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_torch_whatever_the_layers_directions_and_lengths(data: st.DataObject) -> None:
    draw = data.draw
    inputs, units = draw(st.integers(1, 20)), draw(st.integers(1, 20) | st.integers(31, 70))
    layers, both, first = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())
    density, bias = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), draw(st.booleans())
    options = {"bidirectional": both, "batch_first": first, "bias": bias}
    lstm = pruned_lstm(draw(st.integers(0, 99)), density, inputs, units, layers, **options)
    time, batch = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 8, 9, 64, 66]))
    padded = torch.randn((batch, time, inputs) if first else (time, batch, inputs))
    x: torch.Tensor | PackedSequence = padded
    if draw(st.booleans()):
        lengths = torch.from_numpy(np.random.default_rng(0).integers(1, time + 1, batch))
        x = pack_padded_sequence(padded, lengths, batch_first=first, enforce_sorted=False)
    shape = (layers * (1 + both), batch, units)
    state = draw(st.sampled_from([None, (torch.randn(shape), torch.randn(shape))]))
    with torch.no_grad():
        wanted = parts(lstm(x, state))
    for isa in ISAS:
        with torch_threads(draw(st.sampled_from([1, 2]))):
            output = parts(SparseLSTM(lstm, isa)(x, state))
        for given_, expected in zip(output, wanted, strict=True):
            assert_close(given_, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_torch_and_the_oracle_agree_on_unequal_lengths(reverse: bool) -> None:
    lstm = pruned_lstm(0, 0.5, 3, 4, bidirectional=reverse)
    counts = np.array([3, 2, 2, 1])
    x = torch.randn(8, 3)
    packed = PackedSequence(x, torch.from_numpy(counts))
    suffix = "_l0_reverse" if reverse else "_l0"
    w = {k: v.detach().double().numpy() for k, v in lstm.named_parameters() if k.endswith(suffix)}
    state = np.zeros((3, 4))
    y, h, _ = reference.lstm_direction(
        x.double().numpy(),
        w[f"weight_ih{suffix}"],
        w[f"weight_hh{suffix}"],
        w[f"bias_ih{suffix}"] + w[f"bias_hh{suffix}"],
        h=state,
        c=state,
        counts=counts,
        reverse=reverse,
    )
    with torch.no_grad():
        out, (last, _) = lstm(packed)
    assert_close(out.data[:, -4:], y)
    assert_close(last[-1], h)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [1, 3])
def test_saturated_gates_and_nan(isa: int, batch: int) -> None:
    lstm = pruned_lstm(0, 1.0, 2, 3)
    x = torch.randn(4, batch, 2)
    x[0] *= 1e4
    x[2, 0, 0] = torch.nan
    with torch.no_grad():
        wanted = parts(lstm(x))
    for given_, expected in zip(parts(SparseLSTM(lstm, isa)(x)), wanted, strict=True):
        assert_close(given_, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("units", "group"), [(40, 8), (36, 1)])
def test_blocks_of_8x1_stay_groups_where_the_gates_are_whole_ones(
    isa: int, units: int, group: int
) -> None:
    lstm = pruned_lstm(0, 1.0, 5, units)
    with torch.no_grad():
        recurrent = lstm.get_parameter("weight_hh_l0")
        recurrent.mul_((torch.rand(units // 2, units) < 0.2).repeat_interleave(8, 0))
    sparse, x = SparseLSTM(lstm, isa), torch.randn(4, 3, 5)
    with torch.no_grad():
        wanted = parts(lstm(x))
    for given_, expected in zip(parts(sparse(x)), wanted, strict=True):
        assert_close(given_, expected)
    ((direction,),) = sparse.layers
    assert direction.recurrent.gates().blocks[0].group == group


def test_an_unbatched_input_gives_an_unbatched_output() -> None:
    lstm = pruned_lstm(0, 0.5, 3, 4, 2)
    x = torch.randn(5, 3)
    with torch.no_grad():
        wanted = parts(lstm(x))
    for given_, expected in zip(parts(SparseLSTM(lstm, kernels.isa())(x)), wanted, strict=True):
        assert_close(given_, expected)


def test_bad_input_is_an_error() -> None:
    sparse = SparseLSTM(pruned_lstm(0, 0.5, 3, 4), kernels.isa())
    with pytest.raises(ConfigurationError, match=r"shape is \(5, 1, 7\)"):
        sparse(torch.zeros(5, 1, 7))
    with pytest.raises(ConfigurationError, match=r"h_0 has shape \(1, 2, 4\)"):
        sparse(torch.zeros(5, 1, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(ConfigurationError, match="float64"):
        sparse(torch.zeros(5, 1, 3, dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="no time steps"):
        sparse(torch.zeros(0, 1, 3))
    with pytest.raises(ConfigurationError, match="1 parts.*h_0, c_0"):
        sparse(torch.zeros(5, 1, 3), torch.zeros(1, 1, 4))
    packed = PackedSequence(torch.zeros(2, 7), torch.tensor([1, 1]))
    with pytest.raises(ConfigurationError, match="7 features"):
        sparse(packed)
    with pytest.raises(ConfigurationError, match="requires a gradient"):
        sparse(torch.zeros(5, 1, 3, requires_grad=True))
