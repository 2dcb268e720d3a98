"""What an update needs beside what is there, and what a step takes of the host's time."""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import billhook
from tests.backends.host_time import Step, without_kernels
from tests.backends.stand_in import Accelerator
from tests.backends.test_pruner_on_device import KERNELS, TRITON

SOURCE = str(Path(billhook.__file__).parent)


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


def calls(step: Step) -> Counter[str]:
    """How often each of billhook's functions is called in a step like the ones before it."""
    found: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and SOURCE in frame.f_code.co_filename:
            found[frame.f_code.co_qualname] += 1

    gc.collect()  # pruners from before are asked about the steps of this optimizer
    for _ in range(3):
        step()
    sys.setprofile(count)
    step()
    sys.setprofile(None)
    return found


@pytest.mark.parametrize("first", [0, 50_000])
def test_a_step_calls_one_function_for_each_tensor_the_hook(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_kernels(monkeypatch)
    few = calls(Step(20, first=first))
    many = calls(Step(50, first=first))
    assert many - few == {"_Knowledge.hook.<locals>.masked": 30}
    masked = 0 if first else 1
    assert few["MaskedGradients.mask"] == 2  # after the backward pass, and before the step
    assert few["Batch._prepare.<locals>.zero"] == masked


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("criterion", [billhook.Magnitude(), billhook.Random()])
def test_further_tensors_need_room_for_their_masks_alone(criterion: Any, kernels: bool) -> None:
    found = []
    for tensors in (3, 11):
        with Accelerator(kernels=kernels, runs=False) as device:
            layers = [nn.Linear(64, 64, bias=False) for _ in range(tensors)]
            model = device.module(nn.ModuleList(layers))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
            schedule = billhook.Cubic(0.9, 1, 7, frequency=2)
            billhook.Pruner(model, optimizer, schedule, criterion=criterion)
            for _ in range(4):
                grads_of(model)
                optimizer.step()
            grads_of(model)
            found.append(peak(optimizer.step))
    assert (found[1] - found[0]) / (8 * 64 * 64) < 0.2  # an eighth of a byte each
