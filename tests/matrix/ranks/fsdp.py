"""FSDP2 and other DTensors."""

from typing import Any

import pytest
import torch
from torch import distributed, nn, optim
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

import billhook
from billhook import OneShot, Random
from billhook.errors import ConfigurationError, MaskError, StateError

from ..common import batch, copies, same
from .common import REDRAWN, assert_equals_the_run_alone, full, loss_of, mesh_of, net, shard


def fsdp_equals_the_run_alone() -> None:
    assert_equals_the_run_alone(shard(net()))
    assert_equals_the_run_alone(shard(net()), regrow=False)
    assert_equals_the_run_alone(shard(net()), criterion=Random(seed=3))
    assert_equals_the_run_alone(shard(net()), allocation=billhook.LayerwiseConstant())
    size = distributed.get_world_size()
    if size % 2 == 0:
        assert_equals_the_run_alone(shard(net(), mesh_of(2, size // 2)))


def fsdp_holds_gradients_and_state_through_accumulation() -> None:
    model = shard(net())
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, REDRAWN)
    for step in range(10):
        optimizer.zero_grad()
        for micro in range(2):
            model.set_requires_gradient_sync(micro == 1)  # type: ignore[operator]
            loss_of(model, 2 * step + micro, distributed.get_rank()).backward()
        for name, mask in pruner.masks.items():
            parameter: Any = model.get_parameter(name)
            gone = ~full(mask)
            assert not full(parameter.grad)[gone].any()
            optimizer.step() if name == "4.weight" else None
            for value in optimizer.state[parameter].values():
                if value.shape == parameter.shape:
                    assert not full(value)[~full(pruner.masks[name])].any()
            assert not full(parameter.detach())[~full(pruner.masks[name])].any()


def fsdp_skipped_steps_count_on_no_rank() -> None:
    rank = distributed.get_rank()
    model = shard(net().float())
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, REDRAWN)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step in range(5):
        optimizer.zero_grad()
        x, _ = batch(step, rank)
        loss = model(x).square().mean()
        if step == 2 and rank == 0:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert pruner.step_count == 4


def attaching_before_sharding_is_an_error() -> None:
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    billhook.Pruner(model, optimizer, OneShot(0.5, 1))
    shard(model)
    loss_of(model, 0, distributed.get_rank()).backward()
    with pytest.raises(StateError, match=r"'0.weight' .* fully_shard .* before the Pruner"):
        optimizer.step()


def offloaded_to_the_cpu_equals_the_run_alone() -> None:
    model, mesh = net(), mesh_of()
    offload = CPUOffloadPolicy(pin_memory=False)
    for layer in (model[0], model[2], model[4], model):
        fully_shard(layer, mesh=mesh, offload_policy=offload)
    assert_equals_the_run_alone(model)


def a_nan_on_one_rank_is_an_error_on_all() -> None:
    model = shard(net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    billhook.Pruner(model, optimizer, OneShot(0.5, 1))
    weight: Any = model[2].weight
    if distributed.get_rank() == 0:
        with torch.no_grad():
            weight.to_local()[0, 0] = float("nan")
    with pytest.raises(MaskError, match=r"no mask for '2.weight' at step 1: 1 of 273 scores"):
        optimizer.step()


def what_cannot_be_sharded_is_refused() -> None:
    layer = nn.Linear(3, 4)
    local = torch.ones(2, 3)
    layer.weight = nn.Parameter(DTensor.from_local(local, mesh_of(), [Shard(0)], run_check=False))
    if distributed.get_world_size() == 2:
        billhook.Pruner(layer, optim.SGD(layer.parameters(), lr=0.1), REDRAWN)
    uneven = torch.ones(1 if distributed.get_rank() == 0 else 3, 3)
    placed = DTensor.from_local(
        uneven, mesh_of(), [Shard(0)], run_check=False, shape=torch.Size([4, 3]), stride=(3, 1)
    )
    layer.weight = nn.Parameter(placed)
    with pytest.raises(ConfigurationError, match=r"'weight' is placed as \(Shard\(dim=0\),\)"):
        billhook.Pruner(layer, optim.SGD(layer.parameters(), lr=0.1), REDRAWN)


def the_average_of_a_sharded_model_gets_its_zeros() -> None:
    model, average = shard(net()), shard(net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    pruner.apply_to(average)
    assert same(map(full, copies(model.parameters())), map(full, copies(average.parameters())))
    with pytest.raises(StateError, match="apply_to"):
        pruner.apply_to(net())
