"""What counts as a step of the training, and what of a run is not lost or started anew."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import billhook
from billhook import Cubic, OneShot
from billhook.errors import StateError
from billhook.optimizer_hooks import StepCount

from .common import assert_held, backward, copies, mlp, same, train


def test_asking_for_the_optimizer_state_is_no_step_though_torch_takes_one() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)  # keeps no state, so torch makes some
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 2, 6, frequency=2))
    train(model, optimizer, 3)
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert pruner.step_count == 3


def test_a_warm_up_step_at_learning_rate_zero_is_a_step() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    warm_up = optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 2, 6, frequency=2))
    for step in range(3):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        warm_up.step()
    assert pruner.step_count == 3
    assert torch.equal(model.get_parameter("0.weight").ne(0), pruner.masks["0.weight"])


class OnDevice(Tensor):
    """A number on a device: whoever reads it on the host waits, and is counted."""

    reads = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.item):
            cls.reads += 1
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def test_what_a_scaler_says_is_read_only_when_the_count_is() -> None:
    OnDevice.reads = 0
    optimizer: Any = optim.SGD([torch.ones(1)], lr=0.1)
    steps = StepCount(5)
    for skipped in (0.0, 1.0, 0.0, 1.0, 1.0):
        optimizer.found_inf = torch.tensor(skipped).as_subclass(OnDevice)
        steps.add(optimizer)
    assert steps.at_most == 10
    assert OnDevice.reads == 0
    assert steps.value == 7
    assert OnDevice.reads == 1
    assert steps.value == steps.at_most == 7


def test_an_update_comes_at_its_step_though_some_were_skipped() -> None:
    model = mlp()
    optimizer: Any = optim.SGD(model.parameters(), lr=0.1, fused=True)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 4))
    for step, skipped in enumerate((0.0, 1.0, 0.0, 1.0, 0.0, 0.0)):
        assert pruner.sparsity == 0.0
        optimizer.found_inf = torch.tensor(skipped)
        train(model, optimizer, 1, first=step)
    assert pruner.sparsity == 0.5
    assert pruner.step_count == 4


def test_gradients_of_skipped_steps_are_in_no_average() -> None:
    masks = []
    for skips in (True, False):
        model = mlp()
        optimizer: Any = optim.SGD(model.parameters(), lr=1e-30, fused=True)
        pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 3), criterion=billhook.Fisher())
        for step in range(3):
            if skips:
                optimizer.found_inf = torch.tensor(1.0)
                train(model, optimizer, 1, first=100 + step)
                optimizer.found_inf = torch.tensor(0.0)
            train(model, optimizer, 1, first=step)
        masks.append(pruner.masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


class FailsOnce:
    """A criterion that runs out of memory, or is interrupted, in one call."""

    def __init__(self, error: type[BaseException], call: int) -> None:
        self.error, self.left = error, call

    def __repr__(self) -> str:
        return "FailsOnce"

    def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return weight.detach().abs()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 3])
def test_an_update_that_failed_is_named_and_done_again(
    error: type[BaseException], call: int
) -> None:
    model, reference = mlp(), mlp()
    optimizer, plain = (optim.SGD(m.parameters(), lr=0.1) for m in (model, reference))
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 3), criterion=FailsOnce(error, call))
    train(model, optimizer, 2)
    train(reference, plain, 3)
    with pytest.raises(error):
        train(model, optimizer, 1, first=2)
    assert same(model.parameters(), reference.parameters())
    state = copy.deepcopy(pruner.state_dict())
    with pytest.raises(StateError, match="update of step 3 was interrupted or failed.* 0.00% spar"):
        pruner.finalize()
    train(model, optimizer, 1, first=3)
    assert pruner.finalize().sparsity == 0.5
    resumed = mlp()
    second = optim.SGD(resumed.parameters(), lr=0.1)
    restored = billhook.Pruner(resumed, second, OneShot(0.5, 3), criterion=FailsOnce(error, 0))
    resumed.load_state_dict(reference.state_dict())
    restored.load_state_dict(state)
    train(resumed, second, 1, first=3)
    assert same(model.parameters(), resumed.parameters())


@pytest.mark.parametrize("moment", ["rank", "_settle_leaving", "_exchange", "make_room"])
def test_values_aside_survive_an_interruption_of_their_exchange(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for interrupted in (False, True):
        model = mlp()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 6, frequency=3))
        train(model, optimizer, 2)
        backward(model, 2)
        if interrupted:
            weight = pruner._weights[1]
            monkeypatch.setattr(weight, moment, _interrupt)
            with pytest.raises(KeyboardInterrupt):
                optimizer.step()
            monkeypatch.undo()
            pruner._update_if_due()
        else:
            optimizer.step()
        results.append([*copies(model.parameters()), *pruner.masks.values()])
    assert same(*results)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_zeros_written_over_through_data_are_an_error_when_it_is_over() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    train(model, optimizer, 1)
    model.get_parameter("2.weight").data.fill_(1.0)
    with pytest.raises(StateError, match="120 weights of '2.weight' are not zero where the mask"):
        pruner.finalize()


SCHEDULE = Cubic(0.8, 0, 10, frequency=2)


def test_a_restart_without_the_pruners_state_is_noticed() -> None:
    for kind in (optim.AdamW, optim.SGD):
        model = mlp()
        settings: Any = {"momentum": 0.9} if kind is optim.SGD else {}
        optimizer = kind(model.parameters(), lr=0.05, **settings)
        pruner = billhook.Pruner(model, optimizer, SCHEDULE)
        train(model, optimizer, 5)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), pruner.state_dict()))
        for order in ("forgotten", "before", "after"):
            fresh = mlp(seed=1)
            second = kind(fresh.parameters(), lr=0.05, **settings)
            restored = billhook.Pruner(fresh, second, SCHEDULE)
            if order == "before":
                restored.load_state_dict(saved[2])
            fresh.load_state_dict(saved[0])
            second.load_state_dict(saved[1])
            if order == "after":
                restored.load_state_dict(saved[2])
            if order == "forgotten":
                with pytest.raises(StateError, match=f"{kind.__name__} was loaded.* at step 0"):
                    train(fresh, second, 1)
            else:
                train(fresh, second, 1)
                assert restored.step_count == 6


def test_a_rollback_without_the_pruners_state_is_noticed() -> None:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, SCHEDULE)
    train(model, optimizer, 3)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.load_state_dict(optimizer.state_dict())  # the present one is no rollback
    train(model, optimizer, 4)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    with torch.no_grad():
        pruner.apply_to(model)
    with pytest.raises(StateError, match="AdamW was loaded .* the pruner stays at step 7"):
        train(model, optimizer, 1)


@pytest.mark.parametrize("how", ["copy_", "data", "new storage"])
def test_a_rollback_restores_the_checkpoints_weights_however_they_are_written(how: str) -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 40, frequency=2))
    train(model, optimizer, 5)
    saved = copy.deepcopy((model.state_dict(), pruner.state_dict()))
    train(model, optimizer, 11, first=5)
    for name, parameter in model.named_parameters():
        if how == "copy_":
            with torch.no_grad():
                parameter.copy_(saved[0][name])
        elif how == "data":
            parameter.data.copy_(saved[0][name])
        else:
            parameter.data = saved[0][name].clone()
    pruner.load_state_dict(saved[1])
    assert same(model.state_dict().values(), saved[0].values())


def test_a_checkpoint_loaded_before_the_pruner_attaches_keeps_all_its_weights() -> None:
    """Random scores mask other weights at attach than the checkpoint's masks do."""
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    options: Any = {"criterion": billhook.Random(seed=3)}
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 0, 40, 2, None, 0.3), **options)
    train(model, optimizer, 9)
    saved = copy.deepcopy((model.state_dict(), pruner.state_dict()))
    for through_data in (False, True):  # the same weights written over the attached ones
        fresh = mlp(seed=1)
        fresh.load_state_dict(saved[0])
        second = optim.SGD(fresh.parameters(), lr=0.3)
        restored = billhook.Pruner(fresh, second, Cubic(0.8, 0, 40, 2, None, 0.3), **options)
        for name, parameter in fresh.named_parameters() if through_data else ():
            parameter.data.copy_(saved[0][name])
        restored.load_state_dict(saved[1])
        assert same(fresh.state_dict().values(), saved[0].values())


def test_zeros_of_a_sparse_checkpoint_do_not_come_back_without_a_word() -> None:
    model = mlp()
    billhook.Pruner(model, optim.SGD(model.parameters(), lr=0.1), OneShot(0.7)).finalize()
    weights = model.state_dict()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, SCHEDULE)  # not a word yet: state may be loaded
    with pytest.warns(
        UserWarning, match=r"140 of the 200 weights of '0.weight' .* in 2 more tensors"
    ):
        train(model, optimizer, 1)
    train(model, optimizer, 1, first=1)  # said once
    pruner.detach()
    model.load_state_dict(weights)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.7, 0, 10, frequency=5))
    train(model, optimizer, 10)
    assert_held(pruner, model)


def test_the_zeros_of_a_padding_row_are_no_sparse_checkpoint() -> None:
    model = nn.Embedding(10, 8, padding_idx=0)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 2))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.arange(10)).square().sum().backward()
        optimizer.step()
    assert pruner.finalize().sparsity == 0.5


def test_an_optimizer_given_twice_counts_once() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, [optimizer, optimizer], SCHEDULE)
    train(model, optimizer, 3)
    assert pruner.step_count == 3
