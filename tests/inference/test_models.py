"""Whole models as one program: equal to torch, from files too, and what cannot be is named."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import billhook
from billhook.inference import isa, kernels
from billhook.inference.compiled import CompiledModel
from billhook.inference.compiler import _network
from billhook.inference.graph import UnsupportedError, capture_graph
from billhook.inference.graph.soundness import check_graph
from billhook.inference.network.network import Network
from billhook.inference.plan import Plan
from billhook.inference.report import CompileReport
from billhook.inference.verification import Trials, variations

from .zoo import ZOO, choices_of, small

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


@pytest.mark.parametrize("name", ZOO)
def test_a_model_is_one_program_that_equals_torch(name: str, tmp_path: Path) -> None:
    model, inputs = small(name)
    with torch.no_grad():
        graph, pack = capture_graph(model, inputs)
        trials = Trials(model, inputs)
    check_graph(graph)
    assert len(trials.cases) >= 3
    rng = random.Random(name)
    for number in [isa.index_of(one, "fp32") for one in reversed(isa.supported("fp32"))]:
        choices = choices_of(graph, rng)
        network = _network((graph, pack), choices, number)
        trials.check(network)
    plan = Plan("network", isa.name_of(number), choices)
    compiled = CompiledModel(network, plan, CompileReport.of(plan, ""), {})
    billhook.save(compiled, tmp_path / "program")
    again = billhook.load_compiled(tmp_path / "program")
    batches = [x for _, x in variations(inputs) if network.takes(*x)]
    for given in (batches[0], batches[-1]):
        same = zip(*(_leaves(p(*given)) for p in (compiled, again)), strict=True)
        assert all(torch.equal(x, y) for x, y in same)


def _leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors of an output in the order of their size and numbers: files forget classes."""
    leaves = [x for x in pytree.tree_leaves(outputs) if torch.is_tensor(x)]
    return sorted(leaves, key=lambda x: (x.shape, x.flatten()[0].item()))


def test_outputs_come_back_as_the_model_gives_them() -> None:
    model, inputs = small("BERT")
    graph, pack = capture_graph(model, inputs)
    network = Network(graph, choices_of(graph, random.Random(0)), kernels.isa(), pack=pack)
    given, wanted = network(*inputs), model(*inputs)
    assert type(given) is type(wanted)
    assert torch.allclose(given.pooler_output, wanted.pooler_output, atol=1e-5)


def test_an_index_beyond_the_table_is_an_error() -> None:
    model, inputs = small("LSTM")
    graph, pack = capture_graph(model, inputs)
    network = Network(graph, choices_of(graph, random.Random(0)), kernels.isa(), pack=pack)
    for index in (30, -1, 2**40):
        with pytest.raises(IndexError, match="beyond the rows"):
            network(torch.full((1, 7), index))


def test_a_stream_can_be_cut_anywhere() -> None:
    model, _ = small("LSTM stream")
    x, state = torch.randn(1, 12, 6), (torch.zeros(1, 1, 9), torch.zeros(1, 1, 9))
    with torch.no_grad():
        wanted = model(x, state)[0]
    graph, pack = capture_graph(model, (x[:, :4], state))
    network = Network(graph, choices_of(graph, random.Random(0)), kernels.isa(), pack=pack)
    parts = []
    for part in x.split(4, 1):
        y, state = network(part, state)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), wanted, atol=1e-5)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Softshrink())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


def test_what_cannot_be_lowered_is_named_with_its_place() -> None:
    with pytest.raises(UnsupportedError, match=r"softshrink.*in inner\.1, File .*\.py"):
        capture_graph(Sorted().eval(), (torch.rand(1, 4),))


def test_sizes_other_than_the_examples_are_refused() -> None:
    model, inputs = small("LSTM")
    graph, pack = capture_graph(model, inputs)
    network = Network(graph, choices_of(graph, random.Random(0)), kernels.isa(), pack=pack)
    with pytest.raises(billhook.errors.ConfigurationError, match=r"\(N, 7\)"):
        network(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(billhook.errors.ConfigurationError, match="int64"):
        network(torch.zeros(1, 7))
    with pytest.raises(billhook.errors.ConfigurationError, match="takes words"):
        network()


class Draws(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(4)


def test_numbers_that_are_drawn_are_not_taken_for_constants() -> None:
    with pytest.raises(UnsupportedError, match="rand"):
        capture_graph(Draws().eval(), (torch.rand(1, 4),))


def test_a_convolution_takes_the_activation_after_it() -> None:
    """In the kernel that makes the sums; a linear layer's product of a vector takes ReLU alone."""
    kinds = {nn.Hardswish: "hardswish", nn.SiLU: "silu", nn.Sigmoid: "sigmoid"}
    for make, name in {**kinds, nn.Hardsigmoid: "hardsigmoid", nn.ReLU6: "relu6"}.items():
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), make()).eval()
        ops = capture_graph(model, (torch.rand(1, 3, 9, 9),))[0].ops
        assert [(type(op).__name__, op.activation) for op in ops] == [("Conv", name)]
    linear = nn.Sequential(nn.Linear(5, 4), nn.SiLU()).eval()
    ops = capture_graph(linear, (torch.rand(1, 5),))[0].ops
    assert [(type(op).__name__, op.activation) for op in ops] == [
        ("Linear", "none"),
        ("Elementwise", "none"),
    ]


def test_an_activation_of_what_others_read_stays_by_itself() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return nn.functional.silu(y) + y  # type: ignore[no-any-return]

    ops = capture_graph(Twice().eval(), (torch.rand(1, 2, 3, 3),))[0].ops
    assert [type(op).__name__ for op in ops][:2] == ["Conv", "Elementwise"]
    assert ops[0].activation == "none"
