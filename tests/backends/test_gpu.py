"""A real GPU: what the CPU's tests say of masks holds there, with Triton's kernels and without.

    make test-gpu  # on a machine that has one

Skipped where there is none. ``BILLHOOK_DEVICE=cpu`` tries these tests themselves there.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import billhook
from billhook import testing
from billhook.allocation import Uniform
from billhook.backends import triton
from billhook.criterion import Magnitude, Random
from tests.conformance.parts import ALLOCATIONS, CRITERIA, GRANULARITIES, SCHEDULES

DEVICE = os.environ.get("BILLHOOK_DEVICE", "cuda")
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
}
RISING = billhook.Cubic(0.8, 1, 7, frequency=2)


@pytest.fixture(params=[True, False], ids=["kernels", "operations"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether Triton's kernels treat the masks."""
    use(request.param, monkeypatch)
    return bool(request.param)


def use(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter cannot read the GPU's memory: make test-gpu")
    if kernels:
        works = DEVICE == "cpu" or triton.is_available(torch.device(DEVICE, 0))
        assert works, "Triton's kernels do not work here: the log says why"
    else:
        monkeypatch.setattr(triton, "is_available", lambda device: False)


def net(seed: int = 0) -> nn.Sequential:
    """16 numbers in; layers of odd sizes, and a convolution that lies channels-last."""
    torch.manual_seed(seed)
    picture = nn.Unflatten(1, (4, 2, 2))
    conv = nn.Conv2d(4, 24, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return nn.Sequential(
        picture, conv, nn.Flatten(), nn.Linear(24, 257), nn.Tanh(), nn.Linear(257, 129)
    )


def inputs(step: int) -> Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(step)).to(DEVICE)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    weight = next(model.parameters())
    for step in steps:
        optimizer.zero_grad()
        model(inputs(step).to(weight.device, weight.dtype)).square().mean().backward()
        optimizer.step()


def states(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: Any) -> Iterator[Tensor]:
    """Everything that a step may change, and the masks."""
    for parameter in model.parameters():
        yield parameter.detach().clone()
        kept = optimizer.state[parameter].values() if parameter in optimizer.state else ()
        yield from (each.clone() for each in kept if isinstance(each, Tensor))
    yield from (mask.clone() for mask in pruner.masks.values())


def run(
    make: Make, dtype: torch.dtype, kernels: bool, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[Tensor]:
    with monkeypatch.context() as patch:
        use(kernels, patch)
        model = net().to(DEVICE, dtype)
        optimizer = make(model.parameters())
        pruner = billhook.Pruner(model, optimizer, RISING, **options)
        seen: list[Tensor] = []
        for step in range(9):
            for half in range(2):  # gradients are accumulated
                (model(inputs(2 * step + half).to(dtype)).square().mean() * 8).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            seen += states(model, optimizer, pruner)
        pruner.finalize()
        return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kernels_and_operations_give_the_same_bits(
    name: str, regrow: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        run(OPTIMIZERS[name], dtype, kernels, monkeypatch, regrow=regrow)
        for kernels in (True, False)
    )
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.signbit(), theirs.signbit())


PARTS: list[dict[str, Any]] = [
    *({"criterion": each} for each in CRITERIA),
    *({"granularity": each} for each in GRANULARITIES),
    *({"allocation": each} for each in ALLOCATIONS if "second" not in repr(each)),
    {"regrow": False},
    {"regrow": billhook.GradientRegrowth(0.4)},
]


def network(*, sparse: bool = False) -> nn.Module:
    """The network of the conformance checks, on the GPU."""
    return testing._network(sparse=sparse).to(DEVICE)


@pytest.mark.parametrize("parts", PARTS, ids=repr)
def test_every_part_holds_and_resumes(parts: dict[str, Any], backend: bool) -> None:
    schedule = billhook.Cubic(0.5, 1, 9, frequency=2)
    testing.check_pruner(schedule, model=network(), **parts)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_schedule_holds_and_resumes(schedule: Any, backend: bool) -> None:
    testing.check_pruner(schedule, model=network(sparse=schedule.holds_zeros))


@pytest.mark.parametrize("parts", PARTS, ids=repr)
def test_masks_equal_the_cpus(parts: dict[str, Any], backend: bool) -> None:
    """Weights stand still and gradients are given, so that both devices rank the same numbers."""
    here = testing._network(sparse=False)
    there = copy.deepcopy(here).to(DEVICE)
    pruners, optimizers = [], []
    for model in (here, there):
        optimizers.append(torch.optim.SGD(model.parameters(), lr=1e-30))
        schedule = billhook.Cubic(0.5, 1, 9, frequency=2)
        pruners.append(billhook.Pruner(model, optimizers[-1], schedule, **parts))
    for step in range(1, 11):
        x = testing._values((8, 16), step)
        grads = [testing._values(each.shape, step) for each in here.parameters()]
        for model, device in ((here, "cpu"), (there, DEVICE)):
            model.zero_grad()
            model(x.to(device))  # for criteria that look at inputs
            given = [grad.to(device, copy=True) for grad in grads]
            torch.autograd.backward(list(model.parameters()), given)
        for optimizer in optimizers:
            optimizer.step()
        for name, mask in pruners[0].masks.items():
            assert torch.equal(mask, pruners[1].masks[name].cpu()), (step, name)
    first, second = (pruner.finalize() for pruner in pruners)
    assert first.nonzero == second.nonzero


def test_muon_is_held(backend: bool) -> None:
    """The one optimizer of torch's that moves a weight whose gradient is zero."""
    model = nn.Sequential(nn.Linear(16, 257, bias=False), nn.Linear(257, 33, bias=False)).to(DEVICE)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01)
    pruner = billhook.Pruner(model, optimizer, RISING)
    for step in range(9):
        train(model, optimizer, [step])
        for name, mask in pruner.masks.items():
            assert not model.get_parameter(name).detach()[~mask].any()
    assert pruner.finalize().nonzero == sum(int(m.sum()) for m in pruner.masks.values())


def test_a_run_goes_on_on_the_other_device(backend: bool) -> None:
    """A checkpoint of either device loads on the other and goes on, masks and values aside too."""
    for first, second in (("cpu", DEVICE), (DEVICE, "cpu")):
        model = net().to(first)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        pruner = billhook.Pruner(model, optimizer, RISING)
        train(model, optimizer, range(4))
        other = net(1).to(second)
        taken = torch.optim.AdamW(other.parameters(), lr=0.01)
        resumed = billhook.Pruner(other, taken, RISING)
        other.load_state_dict(model.state_dict())
        taken.load_state_dict(optimizer.state_dict())
        resumed.load_state_dict(pruner.state_dict())
        for name, mask in pruner.masks.items():
            assert torch.equal(mask.cpu(), resumed.masks[name].cpu())
        train(other, taken, range(4, 8))
        pruner.detach()
        report = resumed.finalize()
        assert report.sparsity == pytest.approx(0.8, abs=0.01)


def test_a_sharded_model_equals_the_one_alone(backend: bool, tmp_path: Path) -> None:
    kind = "nccl" if DEVICE == "cuda" else "gloo"
    rendezvous = f"file://{tmp_path}/rendezvous"
    distributed.init_process_group(kind, init_method=rendezvous, rank=0, world_size=1)
    try:
        mesh = init_device_mesh(DEVICE, (1,))
        for allocation in (Uniform(), billhook.Global()):
            runs = []
            for sharded in (True, False):
                model = testing._network(sparse=False).to(DEVICE)
                if sharded:
                    fully_shard(model, mesh=mesh)
                optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
                pruner = billhook.Pruner(model, optimizer, RISING, allocation=allocation)
                train(model, optimizer, range(9))
                masks = [getattr(m, "full_tensor", lambda m=m: m)() for m in pruner.masks.values()]
                runs.append((masks, pruner.finalize().nonzero))
            assert runs[0][1] == runs[1][1]
            for ours, theirs in zip(runs[0][0], runs[1][0], strict=True):
                assert torch.equal(ours, theirs)
    finally:
        distributed.destroy_process_group()


def test_a_scaler_that_skips_and_autocast(backend: bool) -> None:
    model = net().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    pruner = billhook.Pruner(model, optimizer, RISING)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
    for step in range(10):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.float16 if DEVICE == "cuda" else torch.bfloat16):
            loss = model(inputs(step)).float().square().mean()
        scaler.scale(loss * (float("inf") if step in (1, 4) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        for name, mask in pruner.masks.items():
            assert not model.get_parameter(name).detach()[~mask].any()
    assert pruner.step_count == 8
    pruner.finalize()


def test_a_pruned_model_is_saved_loaded_and_compiled_from_the_gpu(tmp_path: Path) -> None:
    model = net().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = billhook.Pruner(model, optimizer, RISING)
    train(model, optimizer, range(8))
    pruner.finalize()
    billhook.save(model, tmp_path / "model.billhook.safetensors")
    read = net(1).to(DEVICE)
    read.load_state_dict(billhook.load(tmp_path / "model.billhook.safetensors"))
    for ours, theirs in zip(model.parameters(), read.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    x = inputs(0)
    if DEVICE == "cuda":
        with pytest.raises(billhook.errors.BillhookError, match="models on the CPU"):
            billhook.compile(model.eval(), x)
    program = billhook.compile(model.cpu().eval(), x.cpu())
    torch.testing.assert_close(program(x.cpu()), model(x.cpu()))


def test_one_shot_pruning_on_the_gpu(backend: bool) -> None:
    for criterion in (Magnitude(), Random()):
        here, there = net(), net().to(DEVICE)
        for model in (here, there):
            billhook.prune(model, 0.7, criterion=criterion)
        for ours, theirs in zip(here.parameters(), there.parameters(), strict=True):
            assert torch.equal(ours, theirs.cpu())
