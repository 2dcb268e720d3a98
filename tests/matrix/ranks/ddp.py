"""DistributedDataParallel."""

import contextlib
import logging

import pytest
import torch
from torch import distributed, optim
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import billhook
from billhook import OneShot
from billhook.errors import StateError

from ..common import assert_held, batch
from .common import REDRAWN, assert_equals_the_run_alone, net, train


def ddp_equals_the_run_alone() -> None:
    for settings in (
        {},
        {"gradient_as_bucket_view": True},
        {"static_graph": True},
        {"bucket_cap_mb": 0.001, "find_unused_parameters": True},
    ):
        assert_equals_the_run_alone(DistributedDataParallel(net(), **settings))


def ddp_clipping_sees_masked_gradients_under_a_low_rank_reduction() -> None:
    model = DistributedDataParallel(net().float())
    state = powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    for step in range(5):
        optimizer.zero_grad()
        for micro in range(2):
            with model.no_sync() if micro == 0 else contextlib.nullcontext():
                x, _ = batch(2 * step + micro, distributed.get_rank())
                model(x).square().mean().backward()
                assert_held(pruner, model)
        optimizer.step()


def ddp_names_the_rank_with_other_weights() -> None:
    rank = distributed.get_rank()
    model = DistributedDataParallel(net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    billhook.Pruner(model, optimizer, REDRAWN)
    if rank == 1:
        with torch.no_grad():
            model.module.get_parameter("2.weight").neg_().add_(1.0)
    expected = "the mask of '2.weight' at step 2 differs .* not the same on rank 1 as on rank 0"
    with pytest.raises(StateError, match=expected):
        train(model, optimizer, 2)


def ddp_names_the_ranks_with_another_configuration() -> None:
    rank = distributed.get_rank()
    model = DistributedDataParallel(net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(StateError, match="configuration of the pruner differs .* rank"):
        billhook.Pruner(model, optimizer, OneShot(0.5 if rank == 0 else 0.6))


def only_rank_0_logs() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("billhook").addHandler(handler)
    logging.getLogger("billhook").setLevel(logging.INFO)
    model = DistributedDataParallel(net())
    billhook.Pruner(model, optim.SGD(model.parameters(), lr=0.05), REDRAWN)
    logging.getLogger("billhook").removeHandler(handler)
    assert len(lines) == (1 if distributed.get_rank() == 0 else 0)
