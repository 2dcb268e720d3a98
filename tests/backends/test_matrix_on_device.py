"""Tests of the matrix that know nothing of devices, with their models on the stand-in device."""

from collections.abc import Iterator

import pytest
from torch import nn

from tests.backends.stand_in import Accelerator
from tests.backends.test_pruner_on_device import KERNELS, small_pieces
from tests.matrix import common, test_gradients, test_optimizers

__all__ = ["small_pieces"]

#: One for each way in which an optimizer's state is held.
CASES = ["sgd momentum, foreach=0", "adamw, foreach=1", "adamax, foreach=0", "sign updates"]


@pytest.fixture(params=KERNELS, autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[Accelerator]:
    with Accelerator(kernels=request.param) as device, pytest.MonkeyPatch.context() as patch:

        def mlp(seed: int = 0) -> nn.Module:
            return device.module(common.mlp(seed))

        for module in (test_gradients, test_optimizers):
            patch.setattr(module, "mlp", mlp)
        yield device


@pytest.mark.parametrize("case", CASES)
def test_masked_weights_stand_still_and_return_fresh(case: str, device: Accelerator) -> None:
    if device.has_kernels and case != CASES[0]:
        pytest.skip("the interpreter takes its time")
    test_optimizers.test_masked_weights_stand_still_and_return_fresh(case)


def test_accumulated_gradients_are_masked() -> None:
    test_gradients.test_accumulated_gradients_are_masked_at_once_and_a_step_is_a_step()


def test_gradients_kept_over_an_update_are_masked() -> None:
    test_gradients.test_gradients_kept_over_an_update_are_masked_by_the_new_mask()
