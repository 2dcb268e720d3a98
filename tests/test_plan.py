import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import billhook
from billhook import Block, Cubic, plan
from billhook.errors import ConfigurationError


def test_the_plan_is_what_a_pruner_then_does() -> None:
    schedule = Cubic(0.8, 3, 15, frequency=4)
    model = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, schedule)
    planned = {step: sparsity for step, sparsity, _ in plan(schedule, 0.1, 20).updates}
    before = 100
    for step in range(1, 21):
        model(torch.randn(4, 10)).sum().backward()
        optimizer.step()
        kept = int(pruner.masks["weight"].sum())
        assert (kept != before) == (planned.get(step, 0.0) > 0)
        if step in planned:
            assert kept == round((1 - planned[step]) * 100)
        before = kept


def test_a_scheduler_is_read_and_left_as_it_was() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    scheduler = lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 5), lr_scheduler.StepLR(optimizer, 4, 0.5)],
        [5],
    )
    twin_optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    twin = lr_scheduler.SequentialLR(
        twin_optimizer,
        [
            lr_scheduler.LinearLR(twin_optimizer, 0.1, 1.0, 5),
            lr_scheduler.StepLR(twin_optimizer, 4, 0.5),
        ],
        [5],
    )
    planned = plan(Cubic(0.8, 0, 8, frequency=4), scheduler, 20).rates
    for expected in planned:
        for each, its_optimizer in ((scheduler, optimizer), (twin, twin_optimizer)):
            assert its_optimizer.param_groups[0]["lr"] == pytest.approx(expected)
            its_optimizer.step()
            each.step()


SMOOTH = Cubic(0.9, 200, 1_200, frequency=100)


@pytest.mark.parametrize(
    ("schedule", "rate", "cause"),
    [
        (SMOOTH, lambda t: 0.1, None),
        (Cubic(0.9, 3_000, 4_000, frequency=100), lambda t: 0.1, "no mask update fires"),
        (Cubic(0.9, 200, 2_200, frequency=100), lambda t: 0.1, "the last 2 of 21 mask updates"),
        (SMOOTH, lambda t: 0.1 if t < 900 else 1e-4, "4 mask updates from step 900 on"),
        (Cubic(0.9, 200, 1_900, frequency=100), lambda t: 0.5 ** (t / 200), "only 0.0% of the run"),
        (SMOOTH, lambda t: min(t, 500) / 500, "still rises to its peak at step 500"),
    ],
)
def test_faults_are_named(schedule: Cubic, rate: object, cause: str | None) -> None:
    assert callable(rate)
    found = plan(schedule, rate, 2_000)
    if cause is None:
        assert not found.warnings
    else:
        assert any(cause in warning for warning in found.warnings)
        assert cause in str(found).replace("\n", " ")


def _cycles(step: int) -> float:
    """oBERT's: every 200 steps from 0.1 down to 0.01, then the peak again."""
    return 0.1 - 0.09 * (step % 200) / 200


def test_updates_belong_on_the_peaks_of_a_cyclic_learning_rate() -> None:
    on_peaks = Cubic(0.9, 200, 1_600, frequency=200, initial_sparsity=0.7)
    assert not plan(on_peaks, _cycles, 2_000).warnings
    late = Cubic(0.9, 350, 1_750, frequency=200, initial_sparsity=0.7)
    (warning,) = plan(late, _cycles, 2_000).warnings
    assert "runs in cycles, and 8 of 8 mask updates, from step 350 on" in warning
    assert "such as steps 200 and 400" in warning


def test_a_tensor_that_the_pattern_does_not_fit_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    with pytest.raises(ConfigurationError, match=r"'1.weight': Block\(rows=8.* is larger than"):
        plan(SMOOTH, 0.1, 2_000, model=model, granularity=Block(8, 1))


def test_nearly_empty_layers_are_named() -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(5, 20))
    (warning,) = plan(SMOOTH, 0.1, 2_000, model=model).warnings
    assert "'1.weight' would keep 10 of 100 weights, fewer than its 20 rows" in warning
    assert not plan(SMOOTH, 0.1, 2_000, model=model, rules={"1": None}).warnings


@pytest.mark.parametrize("decay", [1.0, 0.999, 0.99])
def test_the_suggested_window_has_no_faults(decay: float) -> None:
    found = plan(SMOOTH, lambda t: decay**t, 2_000)
    words = found.suggestion.replace(",", " ").replace(":", " ").split()
    window = {key: int(value) for key, value in (w.split("=") for w in words if "=" in w)}
    again = plan(Cubic(0.9, **window, frequency=100), lambda t: decay**t, 2_000)
    assert not again.warnings


def test_what_cannot_be_planned() -> None:
    with pytest.raises(ConfigurationError, match="steps 0"):
        plan(SMOOTH, 0.1, 0)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with pytest.raises(ConfigurationError, match="ReduceLROnPlateau"):
        plan(SMOOTH, lr_scheduler.ReduceLROnPlateau(optimizer), 100)
    assert "no window" in plan(SMOOTH, 0.1, 50).suggestion
    assert "zero throughout" in plan(SMOOTH, 0.0, 50).suggestion


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plan(SMOOTH, lambda t: 0.999**t, 2_000).plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(itertools.islice(tmp_path.iterdir(), 2))) == 1
