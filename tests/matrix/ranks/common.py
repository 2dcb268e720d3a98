"""Networks, training and the run alone, for the checks of several ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn, optim
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import billhook
from billhook import OneShot
from billhook.schedule import Schedule

from ..common import batch

REDRAWN = OneShot(0.5, 2, 10, frequency=2)


def net(*, sparse: bool = False) -> nn.Sequential:
    """Layers of 21, 13 and 1 rows, which no number of ranks divides; the last leaves some empty."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(10, 21), nn.Linear(21, 13), nn.Linear(13, 1)
    net = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third).double()
    if sparse:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.masked_fill_(parameter < 0, 0.0)
    return net


def loss_of(model: nn.Module, step: int, rank: int) -> Tensor:
    x, _ = batch(step, rank)
    loss: Tensor = (model(x.double()) - x.double().sum(1, keepdim=True)).square().mean()
    return loss


def mesh_of(*shape: int) -> DeviceMesh:
    shape = shape or (distributed.get_world_size(),)
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])


def shard(model: nn.Sequential, mesh: DeviceMesh | None = None) -> nn.Sequential:
    mesh = mesh or mesh_of()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(
    model: nn.Module, optimizer: optim.Optimizer, steps: int, *, first: int = 0
) -> list[float]:
    """Steps on this rank's data with clipping; the norms that clipping saw."""
    norms = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, step, distributed.get_rank()).backward()
        norms.append(float(full(nn.utils.clip_grad_norm_(model.parameters(), 0.5))))
        optimizer.step()
    return norms


def _alone(
    steps: int, schedule: Schedule, **options: Any
) -> tuple[nn.Module, billhook.Pruner, list[float]]:
    """The same run in one process: the mean of all ranks' gradients."""
    model = net(sparse=schedule.holds_zeros)
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, schedule, **options)
    ranks, norms = distributed.get_world_size(), []
    for step in range(steps):
        optimizer.zero_grad()
        (sum(loss_of(model, step, rank) for rank in range(ranks)) / ranks).backward()  # type: ignore[union-attr]
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
    return model, pruner, norms


def assert_equals_the_run_alone(
    model: nn.Module, schedule: Schedule = REDRAWN, **options: Any
) -> None:
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, schedule, **options)
    steps = schedule.end_step + 2
    norms = train(model, optimizer, steps)
    alone, expected, expected_norms = _alone(steps, schedule, **options)
    assert norms == pytest.approx(expected_norms)
    for (name, mask), other in zip(pruner.masks.items(), expected.masks.values(), strict=True):
        assert torch.equal(full(mask), other), name
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(full(ours.detach()), theirs.detach())
    assert pruner.report() == expected.report()
    assert pruner.sparsity == expected.sparsity
    assert pruner.finalize().nonzero == expected.finalize().nonzero
