"""What an update needs beside what is there, and what a step takes of the host's time."""

import statistics
import time
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import billhook
from billhook import masked_gradient, masked_weight
from billhook.backends import nans, triton
from tests.backends.stand_in import Accelerator, DoneEvent
from tests.backends.test_pruner_on_device import TRITON

TENSORS = 200


def peak(call: Callable[[], object]) -> int:
    """The most bytes of tensors that a call held at once beside those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    live = most = 0
    assert seen.profiler is not None
    results = seen.profiler.kineto_results
    for event in results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def grads_of(model: nn.Module) -> None:
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)


def test_an_update_on_the_cpu_makes_the_new_masks_and_nothing_else() -> None:
    model = nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    billhook.Pruner(model, optimizer, billhook.Cubic(0.9, 1, 7, frequency=2))
    found = {}
    for step in range(1, 7):
        grads_of(model)
        found[step] = peak(optimizer.step)
    weights = 8 * 256 * 256
    assert (found[5] - found[6]) / weights < 0.14  # an eighth of a byte each, and headers


@pytest.mark.skipif(not TRITON, reason="no triton")
def test_an_update_by_kernels_makes_no_room_but_once() -> None:
    with Accelerator(kernels=True, runs=False) as device:
        model = device.module(nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(8)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        billhook.Pruner(model, optimizer, billhook.Cubic(0.9, 1, 7, frequency=2))
        found = {}
        for step in range(1, 7):
            grads_of(model)
            found[step] = peak(optimizer.step)
    assert (found[5] - found[6]) / (8 * 256 * 256) < 0.1


def _steps(pruned: bool) -> Callable[[], float]:
    """Thread time, in ms, of a backward pass to 200 small tensors and of a step."""
    model = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(TENSORS))
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, lr=1e-3, foreach=True)
    if pruned:
        billhook.Pruner(model, optimizer, billhook.OneShot(0.5, 0, 1_000, frequency=500))

    def step() -> float:
        for weight in weights:
            weight.grad = None
        grads = [torch.ones_like(weight) for weight in weights]
        start = time.thread_time()
        torch.autograd.backward(weights, grads)
        optimizer.step()
        return (time.thread_time() - start) * 1e3

    return step


def test_a_step_takes_little_of_the_hosts_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host does for 200 tensors before it launches one kernel for all of them.

    The kernels themselves are left out, so this needs no Triton.
    """
    kernels = Mock(BLOCK=1024, PIECE=8192, BINS=2048, DIGITS=((20, 11), (10, 10), (0, 10)))
    monkeypatch.setattr(triton, "_kernels", lambda: kernels)
    monkeypatch.setattr(triton, "_int", lambda size: size)
    monkeypatch.setattr(triton, "log_failure", Mock(side_effect=AssertionError("it failed")))
    monkeypatch.setattr(nans, "record_event", lambda device: DoneEvent())
    monkeypatch.setattr(triton, "is_available", lambda device: True)
    monkeypatch.setattr(triton.Batch, "_launch", lambda *args, **constants: None)
    monkeypatch.setattr(masked_gradient, "_in_main_memory", lambda parameter: False)
    monkeypatch.setattr(masked_weight.MaskedWeight, "_moved", lambda weight, mine: False)
    plain, pruned = _steps(False), _steps(True)
    times = [(plain(), pruned()) for _ in range(40)][5:]
    added = statistics.median(with_masks - without for without, with_masks in times)
    torchs = statistics.median(without for without, _ in times)
    assert added < min(5, 1.5 * torchs)  # 0.7 of torch's own time is usual
