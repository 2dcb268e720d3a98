"""The proof by equality: a run with billhook is the paper's graph, step for step.

float64 models, so that only a real difference in the algorithm can show; scores are fp32 in both.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import billhook
from billhook import masked_weight
from billhook.masked_gradient import MaskedGradient
from billhook.selection import select_weights

from .naive import NaiveRun, OptimizerFactory

STEPS = 40
BEGIN, END, FREQUENCY, FINAL = 4, 32, 4, 0.8


class Recurrent(nn.Module):
    """Embedding, recurrent layer and output layer, on token ids."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.output = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(self.rnn(self.embedding(x))[0].mean(1))
        return output


class Projected(Recurrent):
    """An LSTM with a projection: ``weight_hr`` counts too."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM)
        self.rnn = nn.LSTM(6, 5, num_layers=2, proj_size=4, batch_first=True)
        self.output = nn.Linear(4, 3)


class Transformer(nn.Module):
    """An encoder, a decoder, and an output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.body = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x)
        logits: Tensor = self.output(self.body(hidden, hidden.flip(1)))
        return logits.mean(1)[:, :3]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 4, 1)),
        nn.Conv2d(2, 6, (3, 1), padding=(1, 0)),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, (2, 1), groups=2),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "mlp": (_mlp, False),
    "convolutions": (_convolutions, False),
    "lstm": (lambda: Recurrent(nn.LSTM), True),
    "gru": (lambda: Recurrent(nn.GRU), True),
    "projected lstm": (Projected, True),
    "transformer": (Transformer, True),
}
OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.3, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}


def _batches(ids: bool) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    inputs = (
        torch.randint(11, (STEPS, 6, 8), generator=generator)
        if ids
        else torch.randn(STEPS, 6, 8, generator=generator, dtype=torch.float64)
    )
    return list(zip(inputs, torch.randint(3, (STEPS, 6), generator=generator), strict=True))


def _compare(model_name: str, optimizer_name: str, **pruner_options: Any) -> int:
    """Run both, assert equality after every step, and return how many weights came back."""
    build, ids = MODELS[model_name]
    torch.manual_seed(3)
    model = build().double()
    naive_model = copy.deepcopy(model)
    names = [weight.name for weight, _ in select_weights(model, None, FINAL).pruned]
    window = (BEGIN, END, FREQUENCY)
    naive = NaiveRun(naive_model, names, OPTIMIZERS[optimizer_name], window, FINAL)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    schedule = billhook.Cubic(FINAL, BEGIN, END, frequency=FREQUENCY)
    pruner = billhook.Pruner(model, optimizer, schedule, **pruner_options)
    for x, y in _batches(ids):

        def loss(forward: Any, x: Tensor = x, y: Tensor = y) -> Tensor:
            return nn.functional.cross_entropy(forward(x), y)

        expected = naive.step(loss, clip=0.3)
        optimizer.zero_grad()
        loss(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.detach(), expected[name], rtol=1e-9, atol=1e-11)
        for name, mask in pruner.masks.items():
            assert torch.equal(mask, naive.masks[name])
    assert pruner.finalize().sparsity == pytest.approx(FINAL, abs=0.01)
    return naive.returned


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("model_name", MODELS)
def test_billhook_equals_the_naive_reference(model_name: str, optimizer_name: str) -> None:
    returned = _compare(model_name, optimizer_name)
    assert returned > 0, "no weight came back, so the comparison says nothing about returning"


def _no_gradient_mask(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(MaskedGradient, "jobs", lambda self: [])
    return {}


def _masked_after_clipping(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(MaskedGradient, "mask", lambda self: None)  # only right before the step
    return {}


def _state_not_cleared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(masked_weight, "hold_state", lambda *args: None)
    monkeypatch.setattr(masked_weight, "held_state", lambda *args: [])
    return {}


def _never_return(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"regrow": False}


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "mutate", [_no_gradient_mask, _masked_after_clipping, _state_not_cleared, _never_return]
)
def test_the_proof_kills_mutants(
    mutate: Callable[[pytest.MonkeyPatch], dict[str, Any]],
    optimizer_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = mutate(monkeypatch)
    with pytest.raises(AssertionError):
        _compare("mlp", optimizer_name, **options)
