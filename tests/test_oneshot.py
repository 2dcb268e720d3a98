import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import billhook
from billhook.errors import ConfigurationError, MaskError
from billhook.mask import select


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))


def _batches(count: int = 4) -> list[Tensor]:
    return [torch.randn(12, 8, generator=torch.Generator().manual_seed(n)) for n in range(count)]


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    loss: Tensor = model(batch).square().mean()
    return loss


def test_prune_draws_the_masks_a_pruner_would_and_leaves_nothing_behind() -> None:
    model, other = _model(), _model()
    model.requires_grad_(False)  # a trained model may be frozen
    report = billhook.prune(model, 0.7, rules={"3": 0.5})
    pruner = billhook.Pruner(
        other, torch.optim.SGD(other.parameters(), lr=0.1), billhook.OneShot(0.7), rules={"3": 0.5}
    )
    for name, mask in pruner.masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    assert [tensor.nonzero for tensor in report] == [round(0.3 * 128), 32]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.requires_grad_(True)
    billhook.Pruner(model, torch.optim.SGD(model.parameters(), lr=0.1), billhook.Hold()).detach()


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": billhook.Block(4, 1)},
        {"allocation": billhook.Global(floor=0.1)},
        {"allocation": billhook.LAMP()},
    ],
    ids=str,
)
def test_prune_takes_every_part(options: Any) -> None:
    model = _model()
    assert billhook.prune(model, 0.5, **options).nonzero == 96


def test_prune_by_gradients_and_by_inputs() -> None:
    model, batches = _model(), _batches()
    before = copy.deepcopy(model.state_dict())
    billhook.prune(model, 0.5, criterion=billhook.Fisher(), batches=batches, loss=_loss)
    twin = _model().eval()
    squares = torch.zeros(16, 8)
    for batch in batches:
        twin.zero_grad()
        _loss(twin, batch).backward()
        squares += twin.get_parameter("0.weight").grad.square()  # type: ignore[union-attr]
    expected = select((twin.get_parameter("0.weight").square() * (1e-7 + squares / 4)).detach(), 64)
    assert torch.equal(model.get_parameter("0.weight") != 0, expected)
    assert torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model = _model()
    billhook.prune(
        model, 0.5, criterion=billhook.Wanda(), granularity=billhook.PerRow(), batches=batches
    )
    norms = torch.cat(batches).square().mean(0).sqrt()
    scores = _model().get_parameter("0.weight").detach().abs() * norms
    assert torch.equal(
        model.get_parameter("0.weight") != 0, torch.stack([select(row, 4) for row in scores])
    )
    assert not model[0]._forward_pre_hooks


def test_prune_says_what_is_missing_and_changes_nothing_on_errors() -> None:
    model = _model()
    with pytest.raises(ConfigurationError, match=r"Fisher.* needs gradients: give loss"):
        billhook.prune(model, 0.5, criterion=billhook.Fisher())
    with pytest.raises(ConfigurationError, match="needs inputs, and batches is empty"):
        billhook.prune(model, 0.5, criterion=billhook.Wanda())
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = torch.nan
    with pytest.raises(MaskError, match=r"no mask for '3.weight'.*1 of 64 scores are NaN"):
        billhook.prune(model, 0.5)
    assert model.get_parameter("0.weight").count_nonzero() == 128
    no_module: Any = None
    with pytest.raises(ConfigurationError, match=r"model is a NoneType: give a torch.nn.Module"):
        billhook.prune(no_module, 0.5)


def test_recalibrate_measures_what_the_pruned_weights_pass_on() -> None:
    model, batches = _model(), _batches()
    for batch in batches:
        model(batch)
    billhook.prune(model, 0.6)
    weights = copy.deepcopy(dict(model.named_parameters()))
    assert billhook.recalibrate(model, ((batch, None) for batch in batches)) == 4
    outputs = [model[0](batch) for batch in batches]
    mean = torch.stack([each.mean(0) for each in outputs]).mean(0)
    variance = torch.stack([each.var(0) for each in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].momentum == 0.1
    assert model.training
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())


def test_recalibrate_needs_something_to_measure() -> None:
    with pytest.raises(ConfigurationError, match="no batch normalisation"):
        billhook.recalibrate(nn.Linear(2, 2), [torch.ones(2, 2)])
    model = _model()
    model(_batches()[0])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigurationError, match="no batches"):
        billhook.recalibrate(model, [])
    with pytest.raises(RuntimeError):
        billhook.recalibrate(model, [torch.ones(3, 5)])
    for bad in (torch.nan, torch.inf, 1e38):
        with pytest.raises(ConfigurationError, match="what reaches '1' has a NaN or infinite mean"):
            billhook.recalibrate(model, [_batches()[0], _batches()[0] * bad])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.5])
def test_distillation_equals_its_equation(hardness: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, 7, generator=generator, dtype=torch.float32, requires_grad=True)
    teacher = torch.randn(3, 5, 7, generator=generator)
    labels = torch.randint(7, (3, 5), generator=generator)
    labels[0, :2] = -100
    loss = billhook.distillation_loss(student, teacher, labels, hardness, temperature)
    counted = labels != -100
    p = torch.softmax(teacher / temperature, -1)
    q = torch.softmax(student / temperature, -1)
    divergence = (p * (p / q).log()).sum(-1)[counted].mean()
    hard = functional.cross_entropy(student[counted], labels[counted])
    expected = (1 - hardness) * hard + hardness * temperature**2 * divergence
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.grad is not None
    assert not student.grad[0, :2].any()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ((torch.ones(2, 3), torch.ones(2, 4)), "same batch and classes"),
        ((torch.ones(2, 3), torch.ones(2, 3), torch.ones(3)), "one class index per position"),
        ((torch.ones(2, 3), torch.ones(2, 3), None, 0.5), "there are none: give labels"),
        ((torch.ones(2, 3), torch.ones(2, 3), None, 1.5), "hardness 1.5 is outside"),
        ((torch.ones(2, 3), torch.ones(2, 3), None, 1.0, 0.0), "temperature 0.0 is not above 0"),
    ],
)
def test_bad_distillation(arguments: Any, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        billhook.distillation_loss(*arguments)


def test_two_pruners_on_one_model() -> None:
    """Encoder and decoder with schedules of their own, one optimizer; then without one of them."""
    model = nn.ModuleDict({"encoder": nn.Linear(8, 8), "decoder": nn.Linear(8, 4)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    first = billhook.Pruner(
        model, optimizer, billhook.Cubic(0.75, 0, 6, frequency=2), rules={"decoder": None}
    )
    second = billhook.Pruner(model, optimizer, billhook.OneShot(0.5, 3), rules={"encoder": None})
    for batch in _batches(8):
        optimizer.zero_grad()
        model["decoder"](model["encoder"](batch)).square().mean().backward()
        optimizer.step()
    assert (first.finalize().nonzero, second.finalize().nonzero) == (16, 16)
