"""One bias a gate with the fused LSTM; counts; state carried; padding that changes nothing."""

import copy
import io

import pytest
import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.models import OneBiasLSTM, gnmt, ptb_lstm


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def reference(lstm: OneBiasLSTM, x: torch.Tensor) -> torch.Tensor:
    """torch's own LSTM with the same weights and a second bias of zero."""
    plain = nn.LSTM(
        lstm.input_size,
        lstm.hidden_size,
        lstm.num_layers,
        batch_first=lstm.batch_first,
        bidirectional=lstm.bidirectional,
    )
    state = {k: torch.zeros_like(v) for k, v in plain.state_dict().items()}
    plain.load_state_dict(state | lstm.state_dict())
    out: torch.Tensor = plain(x)[0]
    return out


@pytest.fixture
def lstm() -> OneBiasLSTM:
    torch.manual_seed(0)
    return OneBiasLSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)


X = torch.linspace(-1, 1, 2 * 5 * 3).reshape(2, 5, 3)


def _pickled(lstm: OneBiasLSTM) -> OneBiasLSTM:
    buffer = io.BytesIO()
    torch.save(lstm, buffer)
    buffer.seek(0)
    loaded: OneBiasLSTM = torch.load(buffer, weights_only=False)
    return loaded


def _loaded(lstm: OneBiasLSTM, assign: bool) -> OneBiasLSTM:
    fresh = OneBiasLSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)
    fresh.load_state_dict(lstm.state_dict(), assign=assign)
    return fresh


def _from_meta(lstm: OneBiasLSTM) -> OneBiasLSTM:
    with torch.device("meta"):
        fresh = OneBiasLSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)
    fresh.to_empty(device="cpu")
    fresh.reset_parameters()
    fresh.load_state_dict(lstm.state_dict())
    return fresh


@pytest.mark.parametrize(
    "make",
    [
        lambda lstm: lstm,
        copy.deepcopy,
        _pickled,
        lambda lstm: _loaded(lstm, assign=False),
        lambda lstm: _loaded(lstm, assign=True),
        lambda lstm: lstm.double().float(),
        _from_meta,
    ],
    ids=["itself", "deepcopy", "pickle", "load", "load-assign", "to", "meta"],
)
def test_one_bias_lstm_is_an_lstm_whose_second_bias_is_zero(make, lstm) -> None:  # type: ignore[no-untyped-def]
    made = make(lstm)
    made.flatten_parameters()
    torch.testing.assert_close(made(X)[0], reference(lstm, X), rtol=0, atol=0)
    with torch.no_grad():  # the kernels read the parameters that an optimizer would change
        made.weight_hh_l1.zero_()
        made.bias_ih_l0.add_(1)
    torch.testing.assert_close(made(X)[0], reference(made, X), rtol=0, atol=0)
    assert count(made) == 2 * 4 * 4 * (3 + 4 + 1) + 2 * 4 * 4 * (8 + 4 + 1)


def test_one_bias_lstm_follows_dtype_and_trains_no_second_bias(lstm: OneBiasLSTM) -> None:
    lstm.double()
    out, _ = lstm(X.double())
    assert out.dtype == torch.float64
    out.sum().backward()
    assert lstm.bias_hh_l0.grad is None
    assert all(p.grad is not None for p in lstm.parameters())
    assert not any(
        "bias_hh" in name for name in [*lstm.state_dict(), *dict(lstm.named_parameters())]
    )


@pytest.mark.parametrize(
    ("size", "parameters", "nonzero"),
    [
        ("small", 4_651_600, None),
        ("medium", 19_775_200, [4.0, 3.0, 2.0, 1.0, 0.5]),
        ("large", 66_022_000, [13.2, 9.9, 6.6, 3.3, 1.7]),
    ],
)
def test_ptb_has_the_parameters_of_table_3(
    size: str, parameters: int, nonzero: list[float] | None
) -> None:
    with torch.device("meta"):
        model = ptb_lstm(size)
    assert count(model) == parameters
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    for sparsity, millions in zip([0.8, 0.85, 0.9, 0.95, 0.975], nonzero or [], strict=False):
        left = round((1 - sparsity) * matrices) + parameters - matrices
        assert left / 1e6 == pytest.approx(millions, abs=0.06)  # printed to 0.1M


def test_ptb_starts_as_the_original_did() -> None:
    model = ptb_lstm("small", vocab=500)
    for name, parameter in model.named_parameters():
        if name.startswith("lstm.bias"):
            assert parameter.count_nonzero() == 0  # forget bias 0
        else:
            assert parameter.abs().max() <= 0.1
            assert parameter.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1), name


def test_ptb_state_carried_across_windows_equals_one_long_window() -> None:
    torch.manual_seed(0)
    model = ptb_lstm(hidden=8, vocab=30).eval()
    words = torch.randint(30, (3, 20))
    whole, (h, c) = model(words)
    state, parts = None, []
    for window in torch.split(words, 7, dim=1):
        logits, state = model(window, state)
        parts.append(logits)
    assert state is not None
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(state, (h, c))


def test_ptb_asks_for_one_of_size_and_hidden() -> None:
    with pytest.raises(ConfigurationError, match="exactly one"):
        ptb_lstm("small", hidden=3)
    with pytest.raises(ConfigurationError, match="'tiny' is not one of small, medium, large"):
        ptb_lstm("tiny")


@pytest.mark.parametrize(
    ("units", "parameters"),
    [(256, 34.24e6), (512, 80.80e6), (768, 139.68e6), (1024, 210.88e6)],
)
def test_gnmt_has_the_parameters_of_table_4(units: int, parameters: float) -> None:
    with torch.device("meta"):
        model = gnmt(units)
    assert count(model) == pytest.approx(parameters, abs=0.005e6)


def test_gnmt_parts_and_sparse_counts() -> None:
    with torch.device("meta"):
        model = gnmt(1024)
    sizes = {name: p.numel() for name, p in model.named_parameters()}

    def total(*starts: str) -> int:
        return sum(n for name, n in sizes.items() if name.startswith(starts))

    assert total("source_embedding", "target_embedding", "projection") == 3 * 36_548 * 1024
    assert total("bidirectional", "encoder") == 46_157_824
    assert total("decoder") == 50_348_032
    assert total("attention") == 2 * 1024**2 + 2 * 1024 + 1
    assert sum(sizes.values()) == 210_880_513
    prunable = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.ndim > 1 and name not in model.prune_rules
    )
    dense = sum(sizes.values()) - prunable
    for sparsity, millions in [(0.8, 43.88), (0.85, 33.45), (0.9, 23.01)]:
        assert (dense + (1 - sparsity) * prunable) / 1e6 == pytest.approx(millions, abs=0.005)


def test_gnmt_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = gnmt(8, 20, 30).eval()
    source, target = torch.randint(1, 20, (2, 6)), torch.randint(1, 30, (2, 4))
    alone = model(source[1:, :3], torch.tensor([3]), target[1:])
    batched = model(source, torch.tensor([6, 3]), target)
    wider = model(nn.functional.pad(source, (0, 5), value=7), torch.tensor([6, 3]), target)
    torch.testing.assert_close(batched[1:], alone)
    torch.testing.assert_close(wider, batched)


def test_gnmt_decoding_in_pieces_equals_decoding_at_once() -> None:
    torch.manual_seed(0)
    model = gnmt(8, 20, 30).eval()
    state = model.encode(torch.randint(1, 20, (3, 6)), torch.tensor([6, 3, 1]))
    target = torch.randint(1, 30, (3, 5))
    whole, final = model.decode(target, state)
    parts = []
    for word in torch.split(target, 1, dim=1):
        logits, state = model.decode(word, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(tuple(state), tuple(final))
    swapped = state.select(torch.tensor([2, 0]))
    torch.testing.assert_close(swapped.hidden[0], state.hidden[2])


def test_gnmt_attention_is_the_softmax_of_normed_bahdanau_scores() -> None:
    torch.manual_seed(0)
    model = gnmt(4, 20, 30).eval()
    state = model.encode(torch.randint(1, 20, (1, 3)), torch.tensor([3]))
    attention, query = model.attention, torch.randn(4)
    scores = torch.stack(
        [
            attention.g
            * torch.dot(
                attention.v / attention.v.norm(),
                torch.tanh(
                    attention.memory.weight @ m + attention.query.weight @ query + attention.b
                ),
            )
            for m in state.memory[0]
        ]
    )
    expected = scores.softmax(0) @ state.memory[0]
    torch.testing.assert_close(attention(query.unsqueeze(0), state)[0], expected)


def test_gnmt_starts_as_tensorflow_nmt_does() -> None:
    model = gnmt(16, 50, 60)
    for name, parameter in model.named_parameters():
        if "bias_ih" in name:
            forget = parameter[16:32]
            assert (forget == 1).all()
            assert parameter.count_nonzero() == 16
        elif name not in ("attention.g", "attention.b"):
            assert parameter.abs().max() <= 0.1
    assert model.attention.g == 0.25
