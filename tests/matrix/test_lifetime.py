"""One pruner for each parameter, which lives as long as its run and leaves nothing behind."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

import billhook
from billhook import Cubic, OneShot
from billhook.errors import ConfigurationError, StateError
from billhook.selection import Rules

from .common import assert_held, backward, copies, mlp, same, train

LONG = Cubic(0.8, 0, 100, frequency=10)


def _trial(model: nn.Module, steps: int = 2) -> billhook.Pruner:
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, LONG)
    train(model, optimizer, steps)
    return pruner


def test_a_run_that_is_dropped_frees_its_weights_optimizer_and_pruner() -> None:
    def run() -> list[weakref.ref[Any]]:
        model = mlp()
        optimizer = optim.AdamW(model.parameters(), lr=0.05)
        pruner = billhook.Pruner(model, optimizer, LONG)
        train(model, optimizer, 2)
        return [weakref.ref(each) for each in (model.get_parameter("0.weight"), optimizer, pruner)]

    alive = run()
    gc.collect()
    assert [each() for each in alive] == [None, None, None]


def test_a_pruner_nobody_keeps_lives_with_its_optimizer() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    alive = weakref.ref(billhook.Pruner(model, optimizer, OneShot(0.5)))
    gc.collect()
    train(model, optimizer, 2)
    pruner = alive()
    assert pruner is not None
    assert pruner.step_count == 2
    assert_held(pruner, model)


def test_a_dropped_pruner_masks_no_gradient_of_the_next_run() -> None:
    model = mlp()
    _trial(model)  # a notebook's cell, run once
    gc.collect()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    backward(model, 0)
    grad = model.get_parameter("0.weight").grad
    assert grad is not None
    assert grad.all()


def test_a_held_parameter_is_not_attached_to_twice() -> None:
    model = mlp()
    first = _trial(model)
    masks, weights = first.masks, copies(model.parameters())
    with pytest.raises(StateError, match=r"'0.weight' is held by another Pruner.*detach\(\)"):
        _trial(model)
    assert same(weights, model.parameters())
    assert same(masks.values(), first.masks.values())
    first.detach()
    _trial(model)


def test_two_pruners_of_different_layers_work_side_by_side() -> None:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    rest: Rules = {"2": None, "4": None}
    first = billhook.Pruner(model, optimizer, OneShot(0.5), rules=rest)
    second = billhook.Pruner(model, optimizer, OneShot(0.8, 3), rules={"0": None})
    train(model, optimizer, 4)
    assert first.finalize().sparsity == 0.5
    assert second.finalize().sparsity == pytest.approx(0.8)


def test_an_attach_that_fails_leaves_nothing_behind() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model.get_parameter("4.weight")[0, 0] = torch.nan
    with pytest.raises(billhook.BillhookError, match="'4.weight'") as caught:
        billhook.Pruner(model, optimizer, OneShot(0.5))
    with torch.no_grad():
        model.get_parameter("4.weight")[0, 0] = 0.5
    assert caught.traceback  # which keeps the frames of the failed attach alive
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    train(model, optimizer, 2)
    assert pruner.step_count == 2


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_pruner_is_not_copied_but_says_what_to_save(attempt: Callable[[Any], Any]) -> None:
    pruner = _trial(mlp())
    with pytest.raises(StateError, match=r"Save pruner.state_dict\(\)"):
        attempt(pruner)
    with pytest.raises(StateError, match=r"Save pruner.state_dict\(\)"):
        attempt({"run": pruner} if attempt is not copy.copy else pruner)


class FullyShardedDataParallel(nn.Module):
    """Looks like FSDP1, whose parameters are views of one flat buffer."""

    __module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


class DeepSpeedEngine(FullyShardedDataParallel):
    __module__ = "deepspeed.runtime.engine"


class DeepSpeedZeroOptimizer:
    __module__ = "deepspeed.runtime.zero.stage_1_and_2"
    param_groups: tuple[Any, ...] = ()

    def step(self) -> None:
        """Never called."""


@pytest.mark.parametrize(
    ("wrap", "name"),
    [(FullyShardedDataParallel, r"\(FSDP1\) cuts flat buffers"), (DeepSpeedEngine, "DeepSpeed")],
)
def test_wrappers_with_flat_buffers_are_refused_by_name(wrap: Any, name: str) -> None:
    model = nn.Sequential(wrap(mlp()))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=f"{name}.*torch.distributed.fsdp.fully_shard"):
        billhook.Pruner(model, optimizer, OneShot(0.5))


def test_deepspeed_is_known_by_its_optimizer_and_by_its_parameters() -> None:
    model = mlp()
    theirs: Any = DeepSpeedZeroOptimizer()
    with pytest.raises(ConfigurationError, match="DeepSpeedZeroOptimizer belongs to DeepSpeed"):
        billhook.Pruner(model, theirs, OneShot(0.5))
    model.get_parameter("2.weight").ds_id = 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="'2.weight' is partitioned by DeepSpeed ZeRO"):
        billhook.Pruner(model, optim.SGD(model.parameters(), lr=0.1), OneShot(0.5))
