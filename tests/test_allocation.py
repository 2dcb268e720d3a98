"""One suite over every allocation, then what each claims by itself."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from billhook import Cubic, Global, LayerwiseConstant, OneShot, Pruner, Uniform
from billhook.allocation import Allocation
from billhook.errors import ConfigurationError

ALLOCATIONS: list[Allocation] = [Uniform(), Global(), LayerwiseConstant()]


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 4)
    )


def _run(allocation: Allocation, final: float = 0.8) -> tuple[list[dict[str, Tensor]], Pruner]:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = Cubic(final, 2, 32, frequency=3)
    pruner = Pruner(model, optimizer, schedule, allocation=allocation)
    history = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(34):
        optimizer.zero_grad()
        model(torch.randn(6, 8, generator=generator)).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(pruner.masks)
    return history, pruner


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
def test_every_allocation_meets_the_final_budget(allocation: Allocation) -> None:
    history, pruner = _run(allocation)
    kept = sum(int(mask.sum()) for mask in history[-1].values())
    assert kept == sum(round(0.2 * mask.numel()) for mask in history[-1].values())
    assert pruner.finalize().nonzero == kept


def test_global_ranks_all_weights_together() -> None:
    model = _model()
    weights = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    magnitudes = torch.cat([p.detach().abs().flatten() for p in weights.values()])
    keep = sum(round(0.3 * p.numel()) for p in weights.values())
    threshold = magnitudes.sort(descending=True).values[keep - 1]
    expected = {name: p.detach().abs() >= threshold for name, p in weights.items()}
    pruner = Pruner(
        model, torch.optim.SGD(model.parameters(), lr=0.1), OneShot(0.7), allocation=Global()
    )
    assert all(torch.equal(mask, expected[name]) for name, mask in pruner.masks.items())


def test_layerwise_constant_prunes_one_tensor_at_a_time() -> None:
    history, _ = _run(LayerwiseConstant())
    sparsities = [[1 - float(mask.float().mean()) for mask in masks.values()] for masks in history]
    moving = [
        [after != before for before, after in zip(earlier, later, strict=True)]
        for earlier, later in itertools.pairwise(sparsities)
    ]
    order = [step.index(True) for step in moving if any(step)]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}
    started = [[sparsity > 0 for sparsity in row] for row in sparsities]
    for row, flags in zip(sparsities, started, strict=True):
        for index in range(2):  # the next one starts when this one has all it is to have
            assert not flags[index + 1] or row[index] == pytest.approx(0.8, abs=0.01)


def test_layerwise_constant_needs_an_update_for_every_tensor() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match="of 3 tensors needs more than 3 mask updates"):
        Pruner(
            model, optimizer, Cubic(0.8, 1_000, 1_020, frequency=10), allocation=LayerwiseConstant()
        )
