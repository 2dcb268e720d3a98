import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import ConfigurationError, StateError
from billhook.selection import Rules


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


class _Evaluate:
    """Counts its calls; the metric is the distance from the dense outputs."""

    def __init__(self, model: nn.Module, stop_after: int = 100) -> None:
        self.dense = copy.deepcopy(model)
        self.calls, self.stop_after = 0, stop_after

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
        return -float((model(x) - self.dense(x)).square().mean())


def test_one_tensor_is_pruned_at_a_time_and_the_model_is_left_as_it_was() -> None:
    model = _model()
    evaluate = _Evaluate(model)
    scan = billhook.sensitivity(model, evaluate, (0.5, 0.9))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), _model().parameters(), strict=True)
    )
    assert scan.dense == 0.0
    assert evaluate.calls == 5
    for name, metrics in scan.metrics.items():
        for sparsity, metric in metrics.items():
            alone = _model()
            only: Rules = {other: None for other in scan.metrics if other != name}
            billhook.prune(alone, sparsity, rules=only)
            assert metric == evaluate(alone)
    worst = min(min(each.values()) for each in scan.metrics.values())
    assert set(scan.rules(-worst).values()) == {0.9}
    assert set(scan.rules(0.0).values()) == {None}
    assert "0.weight" in str(scan)


def test_a_scan_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    model, file = _model(), tmp_path / "scan.jsonl"
    with pytest.raises(KeyboardInterrupt):
        billhook.sensitivity(model, _Evaluate(model, stop_after=3), (0.5, 0.9), file=file)
    rest = _Evaluate(model)
    scan = billhook.sensitivity(model, rest, (0.5, 0.9), file=file)
    assert rest.calls == 2
    assert scan == billhook.sensitivity(model, _Evaluate(model), (0.5, 0.9))
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(2.0)
    with pytest.raises(StateError, match="a scan of other weights"):
        billhook.sensitivity(model, rest, (0.5, 0.9), file=file)
    file.unlink()
    billhook.sensitivity(model, rest, (0.5,), file=file, metric="accuracy")
    with pytest.raises(StateError, match="is a scan of 'accuracy', this one is of 'loss'"):
        billhook.sensitivity(model, rest, (0.5,), file=file, metric="loss")
    file.write_text("{}\n")
    with pytest.raises(StateError, match="is not the file of a scan"):
        billhook.sensitivity(model, rest, (0.5, 0.9), file=file)


def test_what_cannot_be_scanned() -> None:
    model = _model()
    with pytest.raises(ConfigurationError, match=r"sparsity 1.5 is outside \(0, 1\)"):
        billhook.sensitivity(model, lambda net: 0.0, (1.5,))
    with pytest.raises(ConfigurationError, match="needs gradient"):
        billhook.sensitivity(model, lambda net: 0.0, criterion=billhook.Fisher())
    with pytest.raises(StateError, match="evaluate gave nan"):
        billhook.sensitivity(model, lambda net: float("nan"))


def test_the_scan_is_drawn(tmp_path: Path) -> None:
    model = _model()
    billhook.sensitivity(model, _Evaluate(model), (0.5,)).plot(tmp_path / "scan.svg")
    assert "<svg" in (tmp_path / "scan.svg").read_text()
