"""A resumed run equals one that never stopped; a checkpoint that does not fit is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from billhook import Cubic, Global, OneShot, Pruner
from billhook.errors import StateError

from .test_pruner import _model, _sgd, _train

LoadOrder = tuple[str, str, str]
ORDERS: list[LoadOrder] = [
    ("model", "optimizer", "pruner"),
    ("model", "pruner", "optimizer"),
    ("optimizer", "model", "pruner"),
    ("optimizer", "pruner", "model"),
    ("pruner", "model", "optimizer"),
    ("pruner", "optimizer", "model"),
]


@pytest.mark.parametrize("begin", [0, 2])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    order: LoadOrder, begin: int, tmp_path: Any
) -> None:
    def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
        model = _model(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        return (
            model,
            optimizer,
            Pruner(model, optimizer, Cubic(0.8, begin, begin + 18, frequency=3)),
        )

    model, optimizer, pruner = fresh(0)
    _train(model, optimizer, 10)
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "pruner": pruner.state_dict(),
        },
        tmp_path / "checkpoint.pt",
    )
    _train(model, optimizer, 12, first=10)

    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed: dict[str, Any] = dict(zip(("model", "optimizer", "pruner"), fresh(1), strict=True))
    for part in order:
        resumed[part].load_state_dict(checkpoint[part])
    _train(resumed["model"], resumed["optimizer"], 12, first=10)
    assert all(map(torch.equal, model.parameters(), resumed["model"].parameters()))
    masks, theirs = pruner.masks, resumed["pruner"].masks
    assert all(torch.equal(masks[name], theirs[name]) for name in masks)
    for ours, other in zip(
        optimizer.state_dict()["state"].values(),
        resumed["optimizer"].state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(ours[key], other[key]) for key in ours)


def test_going_back_to_an_earlier_checkpoint_in_the_same_process() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, Cubic(0.8, 0, 12, frequency=3))
    _train(model, optimizer, 5)
    parts = {"m": model.state_dict(), "o": optimizer.state_dict(), "p": pruner.state_dict()}
    parts = copy.deepcopy(parts)
    _train(model, optimizer, 8, first=5)
    expected = copy.deepcopy(model)
    model.load_state_dict(parts["m"])
    optimizer.load_state_dict(parts["o"])
    pruner.load_state_dict(parts["p"])
    _train(model, optimizer, 8, first=5)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


REDRAWN = OneShot(0.5, 0, 10, frequency=5)


def _other_sparsity(state: dict[str, Any]) -> dict[str, Any]:
    model = _model()
    return Pruner(model, _sgd(model), OneShot(0.6, 0, 10, frequency=5)).state_dict()


def _other_model(state: dict[str, Any]) -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(10, 21), nn.Tanh(), nn.Linear(21, 5))
    return Pruner(model, _sgd(model), REDRAWN).state_dict()


def _fewer_tensors(state: dict[str, Any]) -> dict[str, Any]:
    del state["weights"]["2.weight"]
    return state


def _damaged(state: dict[str, Any]) -> dict[str, Any]:
    state["weights"]["2.weight"]["mask"][0] ^= 1
    return state


def _without_values_aside(state: dict[str, Any]) -> dict[str, Any]:
    state["weights"]["2.weight"]["aside"] = ()
    return state


def _dense_at_the_end(state: dict[str, Any]) -> dict[str, Any]:
    model = _model()
    fresh = Pruner(model, _sgd(model), OneShot(0.5, 10)).state_dict()
    return state | {"weights": fresh["weights"], "step": 10, "updated": 10}


def _entry(**parts: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def damage(state: dict[str, Any]) -> dict[str, Any]:
        state["weights"]["2.weight"] |= parts
        return state

    return damage


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (
            lambda state: {"model": {}},
            "not a pruner state, it lacks configuration, step, updated, version, weights",
        ),
        (lambda state: state | {"version": 1}, "version 1, this billhook reads version 2"),
        (_other_sparsity, r"schedule was 'OneShot\(final_sparsity=0.6.*'0.weight': 0.6"),
        (_other_model, r"'0.weight' has shape \(21, 10\), the weight \(20, 10\)"),
        (_fewer_tensors, "no mask for '2.weight'"),
        (_damaged, r"keeps 50 values aside for '2.weight', its mask has (49|51) zeros"),
        (_without_values_aside, "'2.weight' lacks the values aside"),
        (_dense_at_the_end, "'0.weight' keeps 200 weights at step 10, the schedule 100"),
        (lambda state: None, "not a pruner state but a NoneType"),
        (lambda state: state | {"step": -7}, "its step is -7"),
        (lambda state: state | {"step": 7.5}, "its step is 7.5"),
        (lambda state: state | {"step": "7"}, "its step is '7'"),
        (lambda state: state | {"updated": 1}, "that of its last mask update 1"),
        (lambda state: state | {"updated": None}, "that of its last mask update None"),
        (lambda state: state | {"weights": 3}, "its 'weights' is 3"),
        (lambda state: state | {"configuration": 3}, "its 'configuration' is 3"),
        (_entry(mask=None), "'2.weight' is damaged"),
        (_entry(mask=torch.zeros(13)), "'2.weight' is damaged: 13 mask entries of torch.float32"),
        (_entry(mask=torch.zeros(3, dtype=torch.uint8)), "'2.weight' is damaged: 3 mask entries"),
        (_entry(shape=None), "'2.weight' is damaged"),
        (_entry(aside=(torch.zeros(50, dtype=torch.int64),)), "'2.weight' is damaged"),
        (_entry(aside=(torch.zeros(50, device="meta"),)), "'2.weight' is on the device \"meta\""),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    damage: Callable[[dict[str, Any]], dict[str, Any]], cause: str
) -> None:
    model = _model()
    pruner = Pruner(model, _sgd(model), REDRAWN)
    state = pruner.state_dict()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StateError, match=cause):
        pruner.load_state_dict(damage(copy.deepcopy(state)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_detached_pruner_loads_nothing() -> None:
    model = _model()
    pruner = Pruner(model, _sgd(model), OneShot(0.5))
    state = pruner.state_dict()
    pruner.finalize()
    with pytest.raises(StateError, match="detached"):
        pruner.load_state_dict(state)


@pytest.mark.parametrize("groups", [(), ("0.*",)])
def test_masks_that_are_ranked_together_keep_as_many_as_the_schedule_says(
    groups: tuple[str, ...],
) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
        model = _model(0)
        optimizer = _sgd(model)
        schedule = Cubic(0.8, 0, 18, frequency=3)
        return model, optimizer, Pruner(model, optimizer, schedule, allocation=Global(groups))

    model, optimizer, pruner = fresh()
    _train(model, optimizer, 10)
    state = copy.deepcopy(pruner.state_dict())
    fresh()[2].load_state_dict(state)
    entry = state["weights"]["0.weight"]
    entry["mask"] = torch.zeros_like(entry["mask"])  # all of it is masked, with values to return
    entry["aside"] = (model.get_parameter("0.weight").detach().flatten().clone(),)
    with pytest.raises(StateError, match=r"ranked together keep \d+ weights at step 10"):
        fresh()[2].load_state_dict(state)
