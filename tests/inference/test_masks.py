"""Masks of attention, and the indices by which they are built, equal torch; others are named."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from billhook.inference import kernels
from billhook.inference.compiler import _network
from billhook.inference.graph import UnsupportedError, capture_graph
from billhook.inference.verification import Trials

from .zoo import choices_of, small

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
Inputs = tuple[Any, ...]


def check(model: nn.Module, inputs: Inputs, *others: Inputs) -> None:
    """One program equals the model on the inputs, on variations of them, and on others."""
    with torch.no_grad():
        graph, pack = capture_graph(model, inputs)
        network = _network((graph, pack), choices_of(graph, random.Random(0)), kernels.isa())
        for given in (inputs, *others):
            Trials(model, given).check(network)


class Function(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


class Attention(nn.Module):
    """Queries, keys and values of one input under a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@pytest.mark.parametrize("shape", [(2, 1, 1, 9), (2, 1, 9, 9), (2, 4, 9, 9)])
@pytest.mark.parametrize("number", [torch.bool, torch.float32])
def test_a_mask_by_hand(number: torch.dtype, shape: tuple[int, ...]) -> None:
    """With a sample that sees nothing at all, whose outputs torch makes zero."""
    torch.manual_seed(0)
    seen = torch.rand(shape) < 0.7
    seen[1] = False
    mask = seen if number == torch.bool else torch.zeros(shape).masked_fill(~seen, -torch.inf)
    x = torch.randn(2, 9, 16)
    model = Attention().eval()
    assert (model(x, mask)[1] == 0).all()
    check(model, (x, mask))


@pytest.mark.parametrize("name", ["BERT, padded", "T5, padded", "GPT-2, padded"])
def test_one_program_takes_every_mask(name: str) -> None:
    model, inputs = small(name)
    rows = [torch.ones_like(inputs[-1]), torch.zeros_like(inputs[-1])]
    rows.append(torch.randint(0, 2, (5, 11)))
    words = torch.randint(0, 99, (5, 11))
    check(model, inputs, *((words[: len(row)], *inputs[1:-1], row) for row in rows))


def grid(x: torch.Tensor) -> torch.Tensor:
    samples, rows = torch.arange(len(x))[:, None, None], torch.tensor([3, 0, 1])[:, None]
    return x[samples, rows, torch.tensor([4, 2])]


PLACES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one": lambda x: x[:, torch.tensor([2, 2, 0])],
    "two": lambda x: x[:, torch.tensor([[0], [3]]), torch.tensor([1, 4, 2])],
    "apart": lambda x: x[:, torch.tensor(1), :, torch.tensor([2, 0])],
    "grid": grid,
    "chosen": lambda x: x.index_select(2, torch.tensor([4, 4, 4, 0, 1])),
    "gathered": lambda x: x.gather(1, torch.tensor([3, 1])[:, None, None].expand(len(x), 2, 5, 3)),
    "flipped": lambda x: x[:, torch.arange(3, -1, -1)],
    "constants": lambda x: x + torch.arange(20.0).view(4, 5)[torch.tensor([2, 2, 0, 1])][..., None],
    "sums": lambda x: x.cumsum(2),
    "sums of a row": lambda x: x[:, 0, 0].cumsum(-1),
    "broadcast": lambda x: torch.arange(6.0).view(1, 6, 1, 1).masked_fill(x[:, :1] > 0, -3.0),
}


@pytest.mark.parametrize("name", PLACES)
def test_constant_indices(name: str) -> None:
    check(Function(PLACES[name]), (torch.randn(2, 4, 5, 3),))


def test_logic_of_numbers_that_are_not_truths() -> None:
    def both(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        said = torch.logical_and(x, y).float() + 2 * torch.logical_or(x, y)
        return said + 4 * x.bool() + 8 * torch.logical_not(y) + 16 * ((x > 1) & (y > 1))

    check(Function(both), (torch.randint(-2, 3, (3, 7)), torch.randint(-2, 3, (3, 7))))


REFUSED: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "computed": (lambda x, i: x[torch.arange(len(x)), i[:, 0]], "computed from an input"),
    "together": (lambda x, _: x[:, torch.arange(3), torch.arange(3)], "vary together"),
    "samples": (lambda x, _: x[torch.tensor([1, 0, 2])], "samples"),
    "bits": (lambda x, i: x + (i & 1)[..., None], "bits of integers"),
    "runs": (lambda x, _: x[:, torch.arange(99, -1, -1) % 5], "runs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_indices_are_named(name: str) -> None:
    function, why = REFUSED[name]
    inputs = torch.randn(3, 5, 3), torch.zeros(3, 5, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match=rf"{why}.*test_masks\.py"):
        capture_graph(Function(function), inputs)
