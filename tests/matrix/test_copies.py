"""deepcopy, pickle, other processes, moving averages: copies are free of the pruner."""

import copy
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import billhook
from billhook import Cubic, OneShot

from .common import assert_held, copies, mlp, same, train


def _pruned() -> tuple[nn.Sequential, optim.Optimizer, billhook.Pruner]:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    return model, optimizer, billhook.Pruner(model, optimizer, Cubic(0.8, 0, 12, frequency=3))


def test_a_deepcopy_of_model_and_optimizer_goes_its_own_way() -> None:
    model, optimizer, pruner = _pruned()
    train(model, optimizer, 6)
    before = copies(model.parameters())
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    assert same(before, twin.parameters())
    train(twin, twin_optimizer, 3)
    assert same(before, model.parameters())
    assert not same(before, twin.parameters())
    assert pruner.step_count == 6
    train(model, optimizer, 6, first=6)
    assert_held(pruner, model)
    pruner.finalize()


def _in_another_process(model: nn.Sequential, results: Any) -> None:
    results.put({name: value.detach().clone().numpy() for name, value in model.named_parameters()})
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    with torch.no_grad():  # the weights are shared memory
        model.get_parameter("0.bias").fill_(7.0)


def test_a_spawned_process_takes_the_model_and_shares_its_memory() -> None:
    model, optimizer, _ = _pruned()
    train(model, optimizer, 4)
    model.share_memory()
    train(model, optimizer, 2, first=4)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_in_another_process, args=(model, results))
    process.start()
    theirs = results.get()
    process.join()
    assert process.exitcode == 0
    assert all(torch.equal(torch.from_numpy(theirs[name]), value) for name, value in before.items())
    assert model.get_parameter("0.bias").eq(7.0).all()


def test_the_moving_average_of_a_run_is_as_sparse_as_the_model_once_applied() -> None:
    model, optimizer, pruner = _pruned()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(14):
        train(model, optimizer, 1, first=step)
        average.update_parameters(model)
    masks = pruner.masks
    stale = average.module.get_parameter("0.weight")[~masks["0.weight"]]
    assert stale.any(), "the average remembers weights from before they were pruned"
    pruner.apply_to(average)
    for name, mask in masks.items():
        assert not average.module.get_parameter(name)[~mask].any()
        assert average.module.get_parameter(name)[mask].all()


def test_a_model_loaded_from_a_pickle_can_be_pruned_on() -> None:
    model, optimizer, pruner = _pruned()
    train(model, optimizer, 12)
    pruner.finalize()
    twin = copy.deepcopy(model)
    second = optim.SGD(twin.parameters(), lr=0.1)
    further = billhook.Pruner(twin, second, OneShot(0.9))
    train(twin, second, 2)
    assert further.finalize().sparsity > pruner.report().sparsity


def test_averaged_weights_may_be_swapped_in_to_evaluate() -> None:
    """As torch_ema and timm do it, through ``.data``, which torch does not count as a write."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, billhook.Cubic(0.8, 0, 8, frequency=2))
    average = torch.optim.swa_utils.AveragedModel(model)
    for step in range(8):
        train(model, optimizer, 1, first=step)
        average.update_parameters(model)
        stored = copies(model.parameters())
        for parameter, mean in zip(model.parameters(), average.parameters(), strict=True):
            parameter.data.copy_(mean.data)
        for parameter, value in zip(model.parameters(), stored, strict=True):
            parameter.data.copy_(value)
        assert_held(pruner, model)
    assert pruner.finalize().sparsity == pytest.approx(0.8, abs=0.01)
