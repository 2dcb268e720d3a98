"""Frozen, late, tied, recurrent and oddly laid out parameters; another device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import billhook
from billhook import Cubic, OneShot
from billhook.errors import MaskError, StateError

from .common import assert_held, backward, copies, mlp, same, train


def test_a_layer_frozen_in_mid_run_stays_pruned_and_moves_again_when_thawed() -> None:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 12, frequency=3))
    train(model, optimizer, 4)
    model[0].requires_grad_(False)
    train(model, optimizer, 4, first=4)
    assert_held(pruner, model)
    model[0].requires_grad_(True)
    before = copies(model[0].parameters())
    for step in range(8, 12):
        optimizer.zero_grad()
        backward(model, step)
        assert_held(pruner, model)
        optimizer.step()
        assert_held(pruner, model)
    assert not same(before, model[0].parameters())


@pytest.mark.parametrize("separate", [False, True], ids=["same optimizer", "second optimizer"])
def test_a_frozen_layer_named_in_rules_joins_an_optimizer_later(separate: bool) -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = optim.AdamW(model[2:].parameters(), lr=0.05)
    second = optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.05)
    pruner = billhook.Pruner(
        model, [optimizer, second], OneShot(0.5, 0, 20, frequency=4), rules={"0.weight": 0.5}
    )
    train(model, optimizer, 3)
    assert_held(pruner, model)
    model[0].requires_grad_(True)
    joined = second if separate else optimizer
    joined.add_param_group({"params": list(model[0].parameters())})
    for step in range(3, 20):
        optimizer.zero_grad()
        second.zero_grad()
        backward(model, step)
        assert_held(pruner, model)
        second.step()
        optimizer.step()
        assert_held(pruner, model)
        moments = joined.state[model.get_parameter("0.weight")]["exp_avg"]
        assert not moments[~pruner.masks["0.weight"]].any()


def test_a_group_of_new_parameters_is_left_alone() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    model.append(nn.Linear(5, 5))
    optimizer.add_param_group({"params": list(model[5].parameters())})
    train(model, optimizer, 3)
    assert_held(pruner, model)
    assert "5.weight" not in pruner.masks
    assert model.get_parameter("5.weight").all()


def test_a_tied_weight_is_pruned_and_counted_once() -> None:
    torch.manual_seed(0)
    embedding, output = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
    output.weight = embedding.weight
    model = nn.Sequential(embedding, output)
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 6, frequency=2))
    for step in range(7):
        optimizer.zero_grad()
        y = torch.arange(10)
        nn.functional.cross_entropy(model((y + step) % 10), y).backward()
        assert_held(pruner, model)
        optimizer.step()
    report = pruner.finalize()
    assert (report.numel, report.nonzero) == (60, 30)
    assert output.weight is embedding.weight


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.output = nn.Linear(10, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        output: Tensor = self.output(hidden.sum(1))
        return output


def test_packed_sequences_through_an_lstm_with_flattened_weights() -> None:
    torch.manual_seed(0)
    model = Packed()
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 0, 12, frequency=3))
    x, lengths = torch.randn(4, 7, 6), torch.tensor([7, 2, 5, 3])
    for _ in range(14):
        model.rnn.flatten_parameters()
        optimizer.zero_grad()
        model(x, lengths).square().sum().backward()
        assert_held(pruner, model)
        optimizer.step()
        assert_held(pruner, model)
    names = model.rnn._flat_weights_names
    flat: Any = model.rnn._flat_weights
    assert all(flat[i] is model.rnn.get_parameter(name) for i, name in enumerate(names))
    fresh = Packed()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x, lengths), model(x, lengths))
    assert pruner.finalize().sparsity == pytest.approx(0.8, abs=0.01)


def _convolutions() -> Any:  # torch's annotation of Module.to lacks memory_format
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3)).double()


def test_channels_last_weights_are_pruned_as_contiguous_ones() -> None:
    results = []
    for switch in (None, 0, 5):  # the step from which on weights are in channels_last
        model = _convolutions()
        optimizer = optim.SGD(model.parameters(), lr=0.02)
        pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 2, 12, frequency=2))
        for step in range(14):
            if step == switch:
                model.to(memory_format=torch.channels_last)
                assert not model.get_parameter("0.weight").is_contiguous()
            x = torch.randn(
                2, 3, 9, 9, generator=torch.Generator().manual_seed(step), dtype=torch.float64
            )
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            assert_held(pruner, model)
        results.append((copies(model.parameters()), pruner.masks))
    for weights, masks in results[1:]:
        assert same(masks.values(), results[0][1].values())
        torch.testing.assert_close(weights, results[0][0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_another_device_in_mid_run() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 12, frequency=2))
    for step, device in enumerate(["cpu", "cuda", "cpu"] * 3):
        model.to(device)
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert_held(pruner, model)
        assert pruner.masks["0.weight"].device.type == device


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_mask_that_would_make_weight_norm_divide_by_zero_is_refused(wrap: Any) -> None:
    model = mlp()
    wrap(model[0])
    direction = next(n for n, p in model.named_parameters() if n[0] == "0" and p.numel() == 200)
    with torch.no_grad():
        model.get_parameter(direction)[3].mul_(1e-3)
    optimizer = optim.SGD(model.parameters(), lr=1e-6)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.2, 2), rules={direction: 0.2})
    before = pruner.masks
    train(model, optimizer, 1)
    with pytest.raises(
        MaskError, match=f"'{direction}' at step 2: .* 1 of the rows .* weight_norm"
    ):
        train(model, optimizer, 1, first=1)
    assert same(before.values(), pruner.masks.values())
    assert model(torch.ones(1, 10)).isfinite().all()


def test_another_module_in_its_place_is_an_error_at_the_next_update_and_at_the_end() -> None:
    for moment, words in ((7, "step"), (20, "finalize")):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, Cubic(0.9, 0, 20, frequency=2))
        train(model, optimizer, moment)
        model[2] = nn.Linear(20, 12)
        optimizer.add_param_group({"params": model[2].parameters()})
        with pytest.raises(StateError, match="'2.weight' is no longer .* module was replaced"):
            train(model, optimizer, 2) if words == "step" else pruner.finalize()


def test_a_module_that_is_removed_or_wrapped_is_left_in_peace() -> None:
    class Wrapped(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.base(x)
            return y

    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 0, 6, frequency=2))
    train(model, optimizer, 3)
    model[2] = Wrapped(model[2])
    train(model, optimizer, 3, first=3)
    assert pruner.finalize().sparsity == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("shape", [(30, 10), (10, 20)], ids=["other size", "same size"])
def test_a_weight_that_is_resized_under_the_pruner_is_named(shape: tuple[int, int]) -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    billhook.Pruner(model, optimizer, OneShot(0.5))
    model.get_parameter("0.weight").data = torch.ones(shape)
    with pytest.raises(StateError, match=r"'0.weight' was resized from \(20, 10\) to"):
        optimizer.step()


def test_weights_that_are_nan_in_the_end_are_an_error() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    train(model, optimizer, 2)
    weight = model.get_parameter("0.weight")
    with torch.no_grad():
        weight[weight != 0] = float("nan")
    with pytest.raises(StateError, match="100 of the 200 weights of '0.weight' are NaN"):
        pruner.finalize()


def test_a_layer_that_was_frozen_at_attach_and_trains_in_the_end_is_warned_of() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    train(model, optimizer, 2)
    model[0].requires_grad_(True)
    train(model, optimizer, 2)
    with pytest.warns(UserWarning, match="'0.weight' were frozen .* and so stay dense"):
        pruner.finalize()
