"""Arguments of the wrong kind are answered with what to give, before anything is changed."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import billhook
from billhook import Cubic, Global, Magnitude, OneShot, Pruner
from billhook.errors import ConfigurationError


def _pair() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(8, 8)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (0.9, r"schedule is 0\.9: give one such as billhook\.OneShot\(0\.9\)"),
        (None, "schedule is None: give one"),
        ("cubic", "schedule is 'cubic': give one"),
        (Cubic, r"schedule is the class Cubic itself: give an object, Cubic\(\.\.\.\)"),
        ([0.5, 0.9], "schedule is a list: give one"),
    ],
)
def test_what_is_not_a_schedule(schedule: Any, message: str) -> None:
    model, optimizer = _pair()
    with pytest.raises(ConfigurationError, match=message):
        Pruner(model, optimizer, schedule)
    Pruner(model, optimizer, OneShot(0.5)).finalize()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allocation": "global"}, r"allocation is 'global': .* billhook\.Global\(\)"),
        ({"allocation": Global}, "allocation is the class Global itself"),
        ({"criterion": "magnitude"}, r"criterion is 'magnitude': .* billhook\.Magnitude\(\)"),
        ({"criterion": Magnitude}, "criterion is the class Magnitude itself"),
        ({"granularity": (4, 1)}, "granularity is a tuple"),
        ({"rules": ["0.weight"]}, "rules is a list: give a dict"),
    ],
)
def test_what_is_not_a_part(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Pruner(*_pair(), OneShot(0.5), **options)


def test_models_and_optimizers() -> None:
    model, optimizer = _pair()
    wrong: list[tuple[Any, Any, str]] = [
        (optimizer, model, "model and optimizer are swapped"),
        (model.state_dict(), optimizer, "model is an OrderedDict: give a torch.nn.Module"),
        (model, model.parameters(), "optimizer is a generator: give the torch.optim.Optimizer"),
        (model, [], "optimizer is a list"),
        (model, None, "optimizer is None"),
        (model, 0.1, "optimizer is 0.1"),
        (model, [optimizer, None], "NoneType is not the torch.optim.Optimizer"),
        (model, StepLR(optimizer, 1), "optimizer is a StepLR"),
    ]
    for first, second, message in wrong:
        with pytest.raises(ConfigurationError, match=message):
            Pruner(first, second, OneShot(0.5))


def test_a_pruner_shows_where_it_stands() -> None:
    model, optimizer = _pair()
    pruner = Pruner(model, optimizer, OneShot(0.75), allocation=Global())
    assert repr(pruner) == (
        "<Pruner of 1 tensors with 64 weights, 75.00% sparse after 0 steps: "
        f"{OneShot(0.75)!r}, allocation=Global()>"
    )
    pruner.detach()
    assert "after 0 steps, detached" in repr(pruner)


def test_every_public_name_is_listed_and_explained() -> None:
    assert set(billhook.__all__) <= set(dir(billhook))
    for name in billhook.__all__:
        assert getattr(billhook, name).__doc__, name
    assert {"compile", "load_compiled", "CompiledModel"} <= set(billhook.__all__)
