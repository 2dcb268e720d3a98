"""One program for every length of its sequences: equal to torch, from a file too; or none."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.compiled import CompiledModel
from billhook.inference.compiler import _capture_for_any_length, _network
from billhook.inference.graph import UnsupportedError
from billhook.inference.isa import name_of
from billhook.inference.network.network import Network
from billhook.inference.network.program import read_lengths
from billhook.inference.plan import Plan
from billhook.inference.report import CompileReport
from billhook.torch_private import leaves

from .zoo import choices_of
from .zoo.sequences import Stream, Tagger, tokens
from .zoo.transformers import bert

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
Inputs = tuple[Any, ...]
STATE = (torch.randn(1, 1, 9), torch.randn(1, 1, 9))
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Inputs]]] = {
    "LSTM": (lambda: Tagger(nn.LSTM, True), lambda n, t: (tokens(30, n, t),)),
    "GRU, time first": (lambda: Tagger(nn.GRU, False), lambda n, t: (tokens(30, t, n),)),
    "stream": (lambda: Stream(nn.LSTM), lambda n, t: (torch.randn(n, t, 6), _states(n))),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        lambda n, t: (torch.randn(n, t, 16),),
    ),
}


def _states(count: int) -> tuple[torch.Tensor, ...]:
    return tuple(part.repeat(1, count, 1) for part in STATE)


def every_length(model: nn.Module, inputs: Inputs) -> Network:
    """One program, of layers that run by any kernels."""
    with torch.no_grad():
        captured, lengths = _capture_for_any_length(model, inputs)
    assert lengths is not None
    choices = choices_of(captured[0], random.Random(0))
    return _network(captured, choices, kernels.isa(), lengths.rule)


def compiled(network: Network) -> CompiledModel:
    plan = Plan("network", name_of(network.isa), network.choices)
    return CompiledModel(network, plan, CompileReport.of(plan, ""), {})


@pytest.mark.parametrize(
    ("name", "length"), [*((name, 5) for name in MODELS), ("LSTM", 1), ("GRU, time first", 1)]
)
def test_a_program_runs_every_length(name: str, length: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    model = make().eval()
    network = every_length(model, inputs(1, length))
    billhook.save(compiled(network), tmp_path / "program")
    again = billhook.load_compiled(tmp_path / "program")
    copied = copy.deepcopy(network)
    for other in (1, 2, 5, 12):
        given = inputs(3, other)
        with torch.no_grad():
            wanted = leaves(model(*given))
            made = [leaves(program(*given)) for program in (network, again, copied)]
        for parts in zip(wanted, *made, strict=True):
            assert (parts[1] - parts[0]).norm() <= 1e-5 * parts[0].norm()
            assert all(torch.equal(part, parts[1]) for part in parts[2:])
    shared = network.lowering.target.packings
    assert len(network._others) == 3
    assert all(one.lowering.target.packings is shared for one in network._others.values())


class Halves(nn.Module):
    """Every other step of five features: the sizes are not linear in the length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x[:, ::2] * torch.ones(5)


def test_numbers_that_depend_on_the_length_are_named() -> None:
    with (
        torch.no_grad(),
        pytest.raises(UnsupportedError, match=r"depend on the length.*standalone"),
    ):
        _capture_for_any_length(bert().eval(), (tokens(99, 1, 7),))


def test_a_length_that_does_not_follow_is_an_error() -> None:
    network = every_length(Halves().eval(), (torch.randn(1, 6, 5),))
    assert network(torch.randn(2, 6, 5)).shape == (2, 3, 5)
    with pytest.raises(ConfigurationError, match="longer by 7"):
        network(torch.randn(2, 13, 5))


class Last(nn.Module):
    """Sees at most so many of the last steps: a graph of fewer does not show that."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.rnn = steps, nn.LSTM(48, 48, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.rnn(x[:, -self.steps :])[0][:, -1]
        return out


@pytest.mark.parametrize("steps", [3, 20, 900, 2000])
def test_a_model_that_cuts_long_sequences_is_never_wrong(steps: int) -> None:
    torch.manual_seed(0)
    model = Last(steps).eval()
    for weight in model.parameters():
        weight.data *= torch.rand_like(weight) < 0.1
    for alone in (False, True):
        fast = billhook.compile(model, torch.randn(1, 5, 48), standalone=alone)
        for length in (2, 5, 30, 1000, 2500):
            x = torch.randn(1, length, 48)
            made = output(fast, x)
            if made is None:
                assert length > 1024 or alone
            else:
                assert torch.allclose(made, model(x), atol=1e-4), length


def output(program: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """None where the program refuses the length."""
    try:
        made: torch.Tensor = program(x)
    except ConfigurationError:
        return None
    return made


def test_compile_makes_one_program_of_an_lstm_and_says_so() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(64, 64, batch_first=True).eval()
    for weight in model.parameters():
        weight.data *= torch.rand_like(weight) < 0.1
    x = torch.randn(1, 6, 64)
    fast = billhook.compile(model, x, standalone=True)
    assert fast.plan.mode == "network"
    assert "for every length" in fast.report().reason
    again = billhook.compile(model, x, plan=fast.plan)
    for length in (6, 9):
        y = torch.randn(1, length, 64)
        assert torch.equal(fast(y)[0], again(y)[0])
        assert torch.allclose(fast(y)[0], model(y)[0], atol=1e-5)


def test_inputs_by_name() -> None:
    name = "stream"
    make, inputs = MODELS[name]
    model = make().eval()
    network = every_length(model, inputs(1, 5))
    x, states = inputs(2, 7)
    names = [each.name for each in network.graph.inputs]
    wanted = leaves(network(x, states))
    for made in (
        network(x, **dict(zip(names[1:], states, strict=True))),
        network(**dict(zip(names, (x, *states), strict=True)), labels=None),
    ):
        assert all(map(torch.equal, leaves(made), wanted))
    with pytest.raises(ConfigurationError, match=f"takes {', '.join(names)}; by name .* z where"):
        network(x, z=x)


def test_what_does_not_fit_in_a_file_is_refused() -> None:
    network = every_length(Tagger(nn.LSTM, True).eval(), (tokens(30, 1, 5),))
    tensors = compiled(network).state_dict()
    data = json.loads(bytes(tensors["program"].numpy()))
    assert read_lengths(data, network.graph) is not None
    longer = data["longer"]
    changes: tuple[dict[str, Any], ...] = (
        {"ops": longer["ops"][:-1]},
        {"ops": [{**longer["ops"][0], "type": "Linear"}, *longer["ops"][1:]]},
        {"ops": [{**op, "shape": [3]} for op in longer["ops"]]},
        {"inputs": []},
        {"outputs": [{**longer["outputs"][0], "value": 99}]},
        {"structure": [0]},
        {"most": 0},
        {"most": 1.5},
        {"most": None},
    )
    for change in changes:
        with pytest.raises((ValueError, TypeError, LookupError)):
            read_lengths({**data, "longer": {**longer, **change}}, network.graph)
