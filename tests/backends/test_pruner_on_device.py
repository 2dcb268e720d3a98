"""A pruner on a device that counts: the CPU's masks, and what a step and an update cost.

Once with torch's own operations, and once with the GPU kernels in Triton's interpreter.
"""

import copy
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import billhook
from billhook import Random
from billhook.backends import triton
from billhook.errors import MaskError, StateError
from tests.backends.stand_in import Accelerator, OnDevice

TRITON = importlib.util.find_spec("triton") is not None
#: Whether the device has kernels of its own.
KERNELS = [False, pytest.param(True, marks=pytest.mark.skipif(not TRITON, reason="no triton"))]
LAYERS, WIDTH = 3, 16
WEIGHTS = LAYERS * WIDTH * WIDTH
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    if TRITON:
        from billhook.backends import triton_kernels

        monkeypatch.setattr(triton_kernels, "BLOCK", 64)
        monkeypatch.setattr(triton_kernels, "PIECE", 128)


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


def assert_same(mine: Tensor, theirs: Tensor) -> None:
    kind = {2: torch.int16, 4: torch.int32}[mine.itemsize]
    assert torch.equal(mine.view(kind), here(theirs).view(kind))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("name", "regrow", "dtype"),
    [
        *((name, True, torch.float32) for name in OPTIMIZERS),
        ("adamw", False, torch.float32),
        ("adamw", True, torch.bfloat16),
        ("sgd", True, torch.bfloat16),
    ],
)
def test_a_run_equals_the_cpus_in_every_bit(
    name: str, regrow: bool, dtype: torch.dtype, kernels: bool
) -> None:
    schedule = billhook.Cubic(0.8, 1, 7, frequency=2)
    with Accelerator(kernels=kernels) as device:
        mine = make().to(dtype)
        theirs = device.module(copy.deepcopy(mine))
        first, second = (OPTIMIZERS[name](m.parameters()) for m in (mine, theirs))
        one = billhook.Pruner(mine, first, schedule, regrow=regrow)
        two = billhook.Pruner(theirs, second, schedule, regrow=regrow)
        for step in range(9):
            for half in range(2):  # gradients are accumulated
                x = inputs(2 * step + half).to(dtype)
                (mine(x).square().mean() * 8).backward()
                (theirs(device.tensor(x)).square().mean() * 8).backward()
            for model in (mine, theirs):
                nn.utils.clip_grad_norm_(model.parameters(), 0.5, foreach=False)
            for optimizer in (first, second):
                optimizer.step()
                optimizer.zero_grad()
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert_same(a.data, b.data)
                for key, state in first.state[a].items():
                    if state.shape == a.shape:
                        assert_same(state, second.state[b][key])
            for key, keep in one.masks.items():
                assert torch.equal(keep, here(two.masks[key]))
        assert two.finalize().nonzero == one.finalize().nonzero


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_run_that_was_stopped_goes_on_as_the_cpus(kernels: bool) -> None:
    schedule = billhook.Cubic(0.8, 1, 7, frequency=2)
    with Accelerator(kernels=kernels) as device:
        runs: list[list[Tensor]] = []
        for move in (lambda model: model, device.module):
            model = move(make())
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            pruner = billhook.Pruner(model, optimizer, schedule)
            for step in range(8):
                if step == 4:
                    state = pruner.state_dict()
                    pruner.detach()
                    pruner = billhook.Pruner(model, optimizer, schedule)
                    pruner.load_state_dict(state)
                x = inputs(step)
                backward(model, x if not runs else device.tensor(x))
                optimizer.step()
            runs.append([here(p.data) for p in model.parameters()])
            pruner.finalize()
        for a, b in zip(*runs, strict=True):
            assert_same(a, b)


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


class Cost:
    """What a pruner adds to backward and step ``step``."""

    def __init__(self, schedule: Any, step: int, *, kernels: bool, **options: Any) -> None:
        found = []
        change, make_optimizer = options.pop("change", None), options.pop("optimizer", adamw)
        for pruned in (False, True):
            with Accelerator(kernels=kernels) as device:
                model = device.module(make())
                optimizer = make_optimizer(model.parameters())
                if pruned:
                    billhook.Pruner(model, optimizer, schedule, **options)
                for each in range(1, step + 1):
                    x = device.tensor(inputs(each))
                    device.reset()
                    backward(model, x)
                    if change is not None:
                        change(model, optimizer)
                    optimizer.step()
                launches = device.kernels + device.launches.total()
                found.append((launches, device.bytes, device.synchronisations))
                self.names = device.launches
        (before, plain, waits), (after, all_bytes, all_waits) = found
        self.launches, self.bytes = after - before, all_bytes - plain
        self.waits = dict(all_waits - waits)


SCHEDULE = billhook.Cubic(0.9, 2, 8, frequency=3)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_step_before_the_first_mask_costs_nothing(kernels: bool) -> None:
    cost = Cost(billhook.Cubic(0.9, 10, 20, frequency=5), 3, kernels=kernels)
    assert (cost.launches, cost.bytes, cost.waits) == (0, 0, {})


def test_a_step_adds_one_kernel_a_tensor_and_nine_bytes_a_weight() -> None:
    cost = Cost(SCHEDULE, 7, kernels=False)
    assert (cost.launches, cost.bytes, cost.waits) == (LAYERS, 9 * WEIGHTS, {})


@pytest.mark.skipif(not TRITON, reason="no triton")
def test_a_step_adds_one_launch_in_all() -> None:
    cost = Cost(SCHEDULE, 7, kernels=True)
    assert (cost.launches, dict(cost.names), cost.waits) == (1, {"zero_dense": 1}, {})


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("step", [5, 8])
def test_an_update_waits_for_nothing(step: int, regrow: bool, kernels: bool) -> None:
    cost = Cost(SCHEDULE, step, kernels=kernels, regrow=regrow)
    assert not cost.waits
    assert cost.launches <= (20 if kernels else 35 * LAYERS)


@pytest.mark.parametrize("kernels", KERNELS)
def test_gradients_are_masked_at_the_end_of_every_backward_pass(kernels: bool) -> None:
    """Whichever layers take part, after a pass that failed, and where gradients are kept."""
    with Accelerator(kernels=kernels) as device:
        model = device.module(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, billhook.OneShot(0.5))
        assert isinstance(model, nn.Sequential)
        failing = False

        def fail(parameter: Tensor) -> None:
            if failing:
                raise RuntimeError(f"out of memory for {tuple(parameter.shape)}")

        model.get_parameter("1.weight").register_post_accumulate_grad_hook(fail)
        for step, layers in enumerate([(0, 1, 2), (0, 1, 2), (1,), (2, 0), (0, 1, 2), (0, 1, 2)]):
            if step == 4:
                failing = True
                with pytest.raises(RuntimeError, match="out of memory"):
                    model(device.tensor(inputs(step))).square().mean().backward()
                failing = False
            x = device.tensor(inputs(step))
            for layer in layers:
                x = model[layer](x)
            x.square().mean().backward()
            for name, keep in pruner.masks.items():
                grad = model.get_parameter(name).grad
                if grad is not None:
                    assert torch.equal(here(grad) != 0, here(keep))
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()


@pytest.mark.parametrize("allocation", [billhook.Global(), billhook.LAMP()])
def test_one_ranking_of_all_tensors_waits_once(allocation: Any) -> None:
    waits = Cost(SCHEDULE, 8, kernels=False, allocation=allocation).waits
    assert waits == {"copy to the host": 1}


def touch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.clamp_(-0.9, 0.9)


class Fused(torch.optim.Optimizer):
    """Skips its step as a fused optimizer under a scaler does: the host does not know."""

    found_inf: Tensor

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {"lr": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                weight.sub_(group["lr"] * weight.grad * (1 - self.found_inf))


def scale(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    number = next(model.parameters()).detach()[0, 0]
    optimizer.param_groups[0]["lr"] = torch.full_like(number, 0.01)
    optimizer.found_inf = torch.zeros_like(number)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("step", "how"),
    [
        (7, {"change": touch}),
        (7, {"change": scale, "optimizer": Fused}),
        (7, {"change": scale, "optimizer": Fused, "criterion": billhook.Fisher()}),
        (8, {"criterion": Random()}),
        (8, {"optimizer": torch.optim.Muon}),
    ],
)
def test_a_step_waits_for_nothing_whatever_is_done_to_it(
    step: int, how: Any, kernels: bool
) -> None:
    assert not Cost(SCHEDULE, step, kernels=kernels, **how).waits


@pytest.mark.parametrize("kernels", KERNELS)
def test_masks_stay_at_their_addresses(kernels: bool) -> None:
    with Accelerator(kernels=kernels) as device:
        model = device.module(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, SCHEDULE)
        addresses = []
        for step in range(9):
            backward(model, device.tensor(inputs(step)))
            optimizer.step()
            addresses.append([weight.mask.bits.data_ptr() for weight in pruner._weights])
        assert all(each == addresses[0] for each in addresses)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_nan_on_the_device_is_reported_at_the_next_step(kernels: bool) -> None:
    with Accelerator(kernels=kernels) as device:
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
        with pytest.raises(MaskError, match=r"'2.weight' at step 3: 1 of 256 scores are NaN"):
            optimizer.step()


@pytest.mark.parametrize("kernels", KERNELS)
def test_weights_written_at_masked_places_are_reported(kernels: bool) -> None:
    with Accelerator(kernels=kernels) as device:
        model = device.module(make())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = billhook.Pruner(model, optimizer, billhook.OneShot(0.5))
        with torch.no_grad():
            model.get_parameter("1.weight").add_(1.0)
        with pytest.raises(StateError, match=r"128 weights of '1.weight' were written"):
            step_twice(optimizer)
        pruner.detach()


def step_twice(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.step()


@pytest.mark.skipif(not TRITON, reason="no triton")
def test_where_kernels_fail_torch_takes_over_with_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_failure = triton.log_failure
    with Accelerator(kernels=True) as device, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(triton, "log_failure", log_failure)
        mine, schedule = make(), billhook.OneShot(0.5, 1, 5, frequency=2)
        theirs = device.module(copy.deepcopy(mine))
        first, second = adamw(mine.parameters()), adamw(theirs.parameters())
        one = billhook.Pruner(mine, first, schedule)
        two = billhook.Pruner(theirs, second, schedule)
        for step in range(6):
            if step == 2:  # a driver that gives up in mid-run
                monkeypatch.setattr(triton.Batch, "_launch", _fails)
            backward(mine, inputs(step))
            backward(theirs, device.tensor(inputs(step)))
            first.step()
            second.step()
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert_same(a.data, b.data)
        assert two.finalize().nonzero == one.finalize().nonzero
    found = [r.getMessage() for r in caplog.records if "Triton" in r.getMessage()]
    assert len(found) == 1
    assert "RuntimeError: no such driver" in found[0]


def _fails(*args: Any, **constants: Any) -> None:
    raise RuntimeError("no such driver")
