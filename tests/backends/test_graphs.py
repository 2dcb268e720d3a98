"""A CUDA graph holds the masks in force; its replays are counted by ``pruner.replayed()``.

There is no CUDA here: torch is told that a stream records, and the operations of the recorded step
are done again for each replay.
"""

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import billhook
from billhook.errors import StateError
from tests.backends.stand_in import Accelerator
from tests.backends.test_pruner_on_device import (
    KERNELS,
    LAYERS,
    OPTIMIZERS,
    assert_same,
    here,
    inputs,
    make,
    small_pieces,
)

__all__ = ["small_pieces"]


@contextlib.contextmanager
def recording() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        yield


def backward(model: nn.Module, x: Tensor) -> None:
    model.zero_grad(set_to_none=False)
    model(x).square().mean().backward()


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["sgd", "adamw", "adamax"])
def test_replays_equal_a_run_on_the_cpu(name: str, kernels: bool) -> None:
    schedule = billhook.Cubic(0.8, 3, 7, frequency=2)
    with Accelerator(kernels=kernels) as device:
        mine = make()
        theirs = device.module(copy.deepcopy(mine))
        first, second = (OPTIMIZERS[name](m.parameters()) for m in (mine, theirs))
        one = billhook.Pruner(mine, first, schedule)
        two = billhook.Pruner(theirs, second, schedule)
        addresses = None
        for step in range(9):
            backward(mine, inputs(step))
            first.step()
            captured = step > 0
            with recording() if captured else contextlib.nullcontext():
                backward(theirs, device.tensor(inputs(step)))
                second.step()
            if captured:
                assert two.step_count == step  # nobody has counted
                two.replayed()
            assert two.step_count == step + 1
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert_same(a.data, b.data)
            now = [w.mask.bits.data_ptr() for w in two._weights]
            assert addresses in (None, now)
            addresses = now
        for key, keep in one.masks.items():
            assert torch.equal(keep, here(two.masks[key]))
        assert two.finalize().nonzero == one.finalize().nonzero


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_step_recorded_before_the_first_mask_has_the_masks_in_it(kernels: bool) -> None:
    with Accelerator(kernels=kernels) as device:
        model = device.module(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, billhook.OneShot(0.5, 3))
        for _ in range(2):
            backward(model, device.tensor(inputs(0)))
            optimizer.step()
        device.reset()
        with recording():
            backward(model, device.tensor(inputs(0)))
            optimizer.step()
        if kernels:
            assert dict(device.launches) == {"zero_dense": 1}
        else:
            assert device.operations["masked_fill_"] == LAYERS
        assert not device.synchronisations
        assert pruner.step_count == 2
        with pytest.raises(StateError, match=r"call pruner.replayed\(\) after each replay"):
            pruner.finalize()
        pruner.replayed()
        assert pruner.sparsity == 0.5


def test_without_a_recorded_step_there_is_nothing_to_replay() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, billhook.OneShot(0.5, 3))
    with pytest.raises(StateError, match="no step of SGD was captured"):
        pruner.replayed()
