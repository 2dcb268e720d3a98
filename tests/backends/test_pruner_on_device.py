"""A pruner on a device that counts: the CPU's masks, and what a step and an update cost."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import billhook
from billhook.errors import MaskError
from tests.backends.stand_in import Accelerator, OnDevice

LAYERS, WIDTH = 6, 24
WEIGHTS = LAYERS * WIDTH * WIDTH
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
}


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])


def here(tensor: Tensor) -> Tensor:
    return tensor.here if isinstance(tensor, OnDevice) else tensor


def inputs(step: int) -> Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(step))


def backward(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_equals_the_cpus_in_every_bit(name: str, regrow: bool) -> None:
    schedule = billhook.Cubic(0.8, 1, 9, frequency=2)
    with Accelerator() as device:
        mine = make()
        theirs = device.module(copy.deepcopy(mine))
        first, second = (OPTIMIZERS[name](m.parameters()) for m in (mine, theirs))
        one = billhook.Pruner(mine, first, schedule, regrow=regrow)
        two = billhook.Pruner(theirs, second, schedule, regrow=regrow)
        for step in range(11):
            backward(mine, inputs(step))
            backward(theirs, device.tensor(inputs(step)))
            for model in (mine, theirs):
                nn.utils.clip_grad_norm_(model.parameters(), 0.5, foreach=False)
            first.step()
            second.step()
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(a.view(torch.int32), here(b.data).view(torch.int32))
            for key, keep in one.masks.items():
                assert torch.equal(keep, here(two.masks[key]))
        assert two.finalize().nonzero == one.finalize().nonzero


def cost(schedule: Any, step: int, **options: Any) -> tuple[int, int, dict[str, int]]:
    """Kernels, bytes and synchronisations that a pruner adds to backward and step ``step``."""
    totals = []
    for pruned in (False, True):
        with Accelerator() as device:
            model = device.module(make())
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            if pruned:
                billhook.Pruner(model, optimizer, schedule, **options)
            for each in range(1, step + 1):
                x = device.tensor(inputs(each))
                device.reset()
                backward(model, x)
                optimizer.step()
            totals.append((device.kernels, device.bytes, dict(device.synchronisations)))
    (kernels, moved, before), (more, all_moved, synchronisations) = totals
    added = {k: n - before.get(k, 0) for k, n in synchronisations.items() if n > before.get(k, 0)}
    return more - kernels, all_moved - moved, added


SCHEDULE = billhook.Cubic(0.9, 2, 8, frequency=3)


def test_a_step_before_the_first_mask_costs_nothing() -> None:
    assert cost(billhook.Cubic(0.9, 10, 20, frequency=5), 3) == (0, 0, {})


def test_a_step_adds_one_kernel_a_tensor_and_nine_bytes_a_weight() -> None:
    assert cost(SCHEDULE, 7) == (LAYERS, 9 * WEIGHTS, {})


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("step", [5, 8])
def test_an_update_waits_for_nothing(step: int, regrow: bool) -> None:
    kernels, _, synchronisations = cost(SCHEDULE, step, regrow=regrow)
    assert not synchronisations
    assert kernels <= 35 * LAYERS


def test_masks_stay_at_their_addresses() -> None:
    with Accelerator() as device:
        model = device.module(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, SCHEDULE)
        addresses = []
        for step in range(9):
            backward(model, device.tensor(inputs(step)))
            optimizer.step()
            addresses.append([weight.mask.bits.data_ptr() for weight in pruner._weights])
        assert all(each == addresses[0] for each in addresses)


def test_a_nan_on_the_device_is_reported_at_the_next_step() -> None:
    with Accelerator() as device:
        model = device.module(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, billhook.OneShot(0.5, 1, 5, frequency=2))
        backward(model, device.tensor(inputs(0)))
        optimizer.step()
        masks = {name: here(keep).clone() for name, keep in pruner.masks.items()}
        weight = model.get_parameter("2.weight")
        place = tuple(masks["2.weight"].nonzero()[0].tolist())
        for step in (2, 3):
            backward(model, device.tensor(inputs(step)))
            if step == 3:
                here(weight.data)[place] = torch.nan
            optimizer.step()
        assert torch.equal(here(pruner.masks["2.weight"]), masks["2.weight"])
        with pytest.raises(MaskError, match=r"'2.weight' at step 3: 1 of 576 scores are NaN"):
            optimizer.step()
