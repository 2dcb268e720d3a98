"""What must hold on every rank. Each function runs on all ranks of one process group at once."""

import contextlib
import json
import logging
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn, optim
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import billhook
from billhook import OneShot, Random
from billhook.allocation import Allocation
from billhook.draw import needs
from billhook.errors import ConfigurationError, MaskError, StateError
from billhook.global_ranking import LAMP
from billhook.granularity import Block, Granularity, Unstructured
from billhook.mask import select
from billhook.ranking import largest_by_tensor
from billhook.schedule import Schedule

from ..conformance.parts import ALLOCATIONS, CRITERIA, GRANULARITIES, SCHEDULES
from .common import assert_held, batch, copies, same

REDRAWN = OneShot(0.5, 2, 10, frequency=2)


def _net(*, sparse: bool = False) -> nn.Sequential:
    """Layers of 21, 13 and 1 rows, which no number of ranks divides; the last leaves some empty."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(10, 21), nn.Linear(21, 13), nn.Linear(13, 1)
    net = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third).double()
    if sparse:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.masked_fill_(parameter < 0, 0.0)
    return net


def _loss(model: nn.Module, step: int, rank: int) -> Tensor:
    x, _ = batch(step, rank)
    loss: Tensor = (model(x.double()) - x.double().sum(1, keepdim=True)).square().mean()
    return loss


def _world() -> tuple[int, int]:
    return distributed.get_rank(), distributed.get_world_size()


def _mesh(*shape: int) -> DeviceMesh:
    shape = shape or (distributed.get_world_size(),)
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])


def _shard(model: nn.Sequential, mesh: DeviceMesh | None = None) -> nn.Sequential:
    mesh = mesh or _mesh()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _train(
    model: nn.Module, optimizer: optim.Optimizer, steps: int, *, first: int = 0
) -> list[float]:
    """Steps on this rank's data with clipping; the norms that clipping saw."""
    norms = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        _loss(model, step, distributed.get_rank()).backward()
        norms.append(float(_full(nn.utils.clip_grad_norm_(model.parameters(), 0.5))))
        optimizer.step()
    return norms


def _alone(
    steps: int, schedule: Schedule, **options: Any
) -> tuple[nn.Module, billhook.Pruner, list[float]]:
    """The same run in one process: the mean of all ranks' gradients."""
    model = _net(sparse=schedule.holds_zeros)
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, schedule, **options)
    ranks, norms = distributed.get_world_size(), []
    for step in range(steps):
        optimizer.zero_grad()
        (sum(_loss(model, step, rank) for rank in range(ranks)) / ranks).backward()  # type: ignore[union-attr]
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
    return model, pruner, norms


def _assert_equals_the_run_alone(
    model: nn.Module, schedule: Schedule = REDRAWN, **options: Any
) -> None:
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, schedule, **options)
    steps = schedule.end_step + 2
    norms = _train(model, optimizer, steps)
    alone, expected, expected_norms = _alone(steps, schedule, **options)
    assert norms == pytest.approx(expected_norms)
    for (name, mask), other in zip(pruner.masks.items(), expected.masks.values(), strict=True):
        assert torch.equal(_full(mask), other), name
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(_full(ours.detach()), theirs.detach())
    assert pruner.report() == expected.report()
    assert pruner.sparsity == expected.sparsity
    assert pruner.finalize().nonzero == expected.finalize().nonzero


def ddp_equals_the_run_alone() -> None:
    for settings in (
        {},
        {"gradient_as_bucket_view": True},
        {"static_graph": True},
        {"bucket_cap_mb": 0.001, "find_unused_parameters": True},
    ):
        _assert_equals_the_run_alone(DistributedDataParallel(_net(), **settings))


def ddp_clipping_sees_masked_gradients_under_a_low_rank_reduction() -> None:
    model = DistributedDataParallel(_net().float())
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
    rank, _ = _world()
    model = DistributedDataParallel(_net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    billhook.Pruner(model, optimizer, REDRAWN)
    if rank == 1:
        with torch.no_grad():
            model.module.get_parameter("2.weight").neg_().add_(1.0)
    expected = "the mask of '2.weight' at step 2 differs .* not the same on rank 1 as on rank 0"
    with pytest.raises(StateError, match=expected):
        _train(model, optimizer, 2)


def ddp_names_the_ranks_with_another_configuration() -> None:
    rank, _ = _world()
    model = DistributedDataParallel(_net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(StateError, match="configuration of the pruner differs .* rank"):
        billhook.Pruner(model, optimizer, OneShot(0.5 if rank == 0 else 0.6))


def only_rank_0_logs() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("billhook").addHandler(handler)
    logging.getLogger("billhook").setLevel(logging.INFO)
    model = DistributedDataParallel(_net())
    billhook.Pruner(model, optim.SGD(model.parameters(), lr=0.05), REDRAWN)
    logging.getLogger("billhook").removeHandler(handler)
    assert len(lines) == (1 if distributed.get_rank() == 0 else 0)


def _placements() -> Iterator[tuple[DeviceMesh, list[Any]]]:
    size = distributed.get_world_size()
    flat = _mesh()
    yield flat, [Shard(0)]
    yield flat, [Shard(1)]
    yield flat, [Replicate()]
    if size % 2 == 0:
        grid = _mesh(size // 2, 2)
        yield grid, [Replicate(), Shard(0)]
        yield grid, [Shard(0), Shard(1)]
        yield grid, [Shard(1), Shard(0)]
        yield grid, [Shard(0), Shard(0)]


def sharded_selection_equals_selection_on_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    for mesh, placements in _placements():
        for shape in ((1, 9), (33, 17), (3, 4, 2)):
            scores = torch.randn(shape, generator=generator)
            tied = scores.mul(2).round().abs()
            odd = scores.clone()
            odd.view(-1)[::3], odd.view(-1)[1::5], odd.view(-1)[2] = 0.0, -0.0, -torch.inf
            odd.view(-1)[3] = torch.inf
            for each in (tied, odd, torch.ones(shape), scores * 1e-42):
                mine = distribute_tensor(each, mesh, placements)
                for keep in (0, 1, each.numel() // 3, each.numel() - 1):
                    mask = _full(select(mine, keep))
                    assert torch.equal(mask, select(each, keep)), (placements, shape, keep)
                    found = largest_by_tensor([mine, each], keep)
                    assert found == largest_by_tensor([each, each], keep)


def messages_do_not_grow_with_the_tensor() -> None:
    sent: dict[int, list[int]] = {}
    reduce = distributed.all_reduce
    for rows in (64, 4096):
        sizes = sent.setdefault(rows, [])

        def counting(tensor: Tensor, *args: Any, sizes: list[int] = sizes, **kwargs: Any) -> Any:
            sizes.append(tensor.numel() * tensor.itemsize)
            return reduce(tensor, *args, **kwargs)

        scores = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
        mine = distribute_tensor(scores, _mesh(), [Shard(0)])
        distributed.all_reduce = counting
        select(mine, rows * 32)
        distributed.all_reduce = reduce
    assert sent[64] == sent[4096]
    assert sum(sent[64]) < 50_000


def an_update_takes_six_messages_whatever_the_number_of_tensors() -> None:
    for allocation, most in ((billhook.Uniform(), 6), (billhook.Global(), 9)):
        for layers in (2, 9):
            torch.manual_seed(0)
            model = nn.Sequential(*[nn.Linear(9, 9, bias=False) for _ in range(layers)])
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(4).round_()  # a threshold cuts through equal weights
            _shard(model)
            optimizer = optim.SGD(model.parameters(), lr=1e-30)
            billhook.Pruner(model, optimizer, OneShot(0.5, 2), allocation=allocation)
            model(torch.ones(1, 9)).sum().backward()
            optimizer.step()
            sent = 0
            with pytest.MonkeyPatch.context() as patch:
                for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast"):
                    send = getattr(distributed, name)

                    def counting(*args: Any, send: Any = send, **kwargs: Any) -> Any:
                        nonlocal sent
                        sent += 1
                        return send(*args, **kwargs)

                    patch.setattr(distributed, name, counting)
                optimizer.step()
            assert 3 <= sent <= most, (allocation, layers, sent)


def attaching_before_sharding_is_an_error() -> None:
    model = _net()
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    billhook.Pruner(model, optimizer, OneShot(0.5, 1))
    _shard(model)
    _loss(model, 0, distributed.get_rank()).backward()
    with pytest.raises(StateError, match=r"'0.weight' .* fully_shard .* before the Pruner"):
        optimizer.step()


def offloaded_to_the_cpu_equals_the_run_alone() -> None:
    model, mesh = _net(), _mesh()
    offload = CPUOffloadPolicy(pin_memory=False)
    for layer in (model[0], model[2], model[4], model):
        fully_shard(layer, mesh=mesh, offload_policy=offload)
    _assert_equals_the_run_alone(model)


def a_nan_on_one_rank_is_an_error_on_all() -> None:
    model = _shard(_net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    billhook.Pruner(model, optimizer, OneShot(0.5, 1))
    weight: Any = model[2].weight
    if distributed.get_rank() == 0:
        with torch.no_grad():
            weight.to_local()[0, 0] = float("nan")
    with pytest.raises(MaskError, match=r"no mask for '2.weight' at step 1: 1 of 273 scores"):
        optimizer.step()


def fsdp_equals_the_run_alone() -> None:
    _assert_equals_the_run_alone(_shard(_net()))
    _assert_equals_the_run_alone(_shard(_net()), regrow=False)
    _assert_equals_the_run_alone(_shard(_net()), criterion=Random(seed=3))
    _assert_equals_the_run_alone(_shard(_net()), allocation=billhook.LayerwiseConstant())
    size = distributed.get_world_size()
    if size % 2 == 0:
        _assert_equals_the_run_alone(_shard(_net(), _mesh(2, size // 2)))


def every_part_draws_the_same_masks_on_every_rank() -> None:
    """Each part of the conformance suite, and pairs, under DDP and FSDP2."""
    parts: list[dict[str, Any]] = [
        *({"schedule": schedule} for schedule in SCHEDULES),
        *({"criterion": criterion} for criterion in CRITERIA if needs(criterion) != "inputs"),
        *({"granularity": granularity} for granularity in GRANULARITIES),
        *({"allocation": allocation} for allocation in ALLOCATIONS if _spreads(allocation)),
        {"allocation": billhook.Global(floor=0.1), "granularity": Block(2, 3)},
        {"allocation": LAMP(), "regrow": False},
        {"regrow": billhook.GradientRegrowth(0.4)},
    ]
    for options in parts:
        for wrapped in (DistributedDataParallel, _shard):
            schedule = options.get("schedule", REDRAWN)
            rules = _rules(options.get("granularity", Unstructured()), schedule.final_sparsity)
            model = wrapped(_net(sparse=schedule.holds_zeros))
            _assert_equals_the_run_alone(model, **({"rules": rules} | options))


def _spreads(allocation: Allocation) -> bool:
    """Whether it keeps some of every layer here, and names none."""
    return allocation not in (billhook.Global(), *(a for a in ALLOCATIONS if "groups=" in repr(a)))


def _rules(granularity: Granularity, sparsity: float) -> dict[str, None]:
    """The layers left dense: those that are smaller than the pattern, and the one of one row."""
    small = {"4.weight": None}
    for name, parameter in _net().named_parameters():
        try:
            granularity.kept(parameter.shape, sparsity)
        except ConfigurationError:
            small |= {name: None} if parameter.dim() == 2 else {}
    return small


def fsdp_holds_gradients_and_state_through_accumulation() -> None:
    model = _shard(_net())
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, REDRAWN)
    for step in range(10):
        optimizer.zero_grad()
        for micro in range(2):
            model.set_requires_gradient_sync(micro == 1)  # type: ignore[operator]
            _loss(model, 2 * step + micro, distributed.get_rank()).backward()
        for name, mask in pruner.masks.items():
            parameter: Any = model.get_parameter(name)
            gone = ~_full(mask)
            assert not _full(parameter.grad)[gone].any()
            optimizer.step() if name == "4.weight" else None
            for value in optimizer.state[parameter].values():
                if value.shape == parameter.shape:
                    assert not _full(value)[~_full(pruner.masks[name])].any()
            assert not _full(parameter.detach())[~_full(pruner.masks[name])].any()


def fsdp_skipped_steps_count_on_no_rank() -> None:
    rank, _ = _world()
    model = _shard(_net().float())
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, REDRAWN)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step in range(5):
        optimizer.zero_grad()
        x, _ = batch(step, rank)
        loss = model(x).square().mean()
        if step == 2 and rank == 0:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert pruner.step_count == 4


def what_cannot_be_sharded_is_refused() -> None:
    layer = nn.Linear(3, 4)
    local = torch.ones(2, 3)
    layer.weight = nn.Parameter(DTensor.from_local(local, _mesh(), [Shard(0)], run_check=False))
    if distributed.get_world_size() == 2:
        billhook.Pruner(layer, optim.SGD(layer.parameters(), lr=0.1), REDRAWN)
    uneven = torch.ones(1 if distributed.get_rank() == 0 else 3, 3)
    placed = DTensor.from_local(
        uneven, _mesh(), [Shard(0)], run_check=False, shape=torch.Size([4, 3]), stride=(3, 1)
    )
    layer.weight = nn.Parameter(placed)
    with pytest.raises(ConfigurationError, match=r"'weight' is placed as \(Shard\(dim=0\),\)"):
        billhook.Pruner(layer, optim.SGD(layer.parameters(), lr=0.1), REDRAWN)


def the_average_of_a_sharded_model_gets_its_zeros() -> None:
    model, average = _shard(_net()), _shard(_net())
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    pruner.apply_to(average)
    assert same(map(_full, copies(model.parameters())), map(_full, copies(average.parameters())))
    with pytest.raises(StateError, match="apply_to"):
        pruner.apply_to(_net())


Run = tuple[nn.Module, optim.Optimizer, billhook.Pruner]


def _fresh(kind: str, seed: int) -> Run:
    model: nn.Module = _net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * seed)
    model = DistributedDataParallel(model) if kind == "ddp" else _shard(model)  # type: ignore[arg-type]
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    return model, optimizer, billhook.Pruner(model, optimizer, REDRAWN)


def _save(run: Run, folder: str) -> None:
    model, optimizer, pruner = run
    weights, state = get_state_dict(model, optimizer)
    save({"model": weights, "optimizer": state, "pruner": pruner}, checkpoint_id=folder)


def _load(run: Run, folder: str) -> None:
    model, optimizer, pruner = run
    weights, state = get_state_dict(model, optimizer)
    parts = {"model": weights, "optimizer": state, "pruner": pruner}
    load(parts, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def _shared_folder() -> str:
    folder = [tempfile.mkdtemp()] if distributed.get_rank() == 0 else [None]
    distributed.broadcast_object_list(folder)
    assert folder[0] is not None
    return folder[0]


def a_distributed_checkpoint_resumes_bit_for_bit() -> None:
    for kind in ("ddp", "fsdp"):
        for taken in (1, 5, 11):  # before, within and after the window
            run = _fresh(kind, 0)
            _train(*run[:2], taken)
            folder = _shared_folder()
            _save(run, folder)
            _train(*run[:2], 12 - taken, first=taken)
            resumed = _fresh(kind, 1)
            _load(resumed, folder)
            _train(*resumed[:2], 12 - taken, first=taken)
            ours, theirs = ([_full(p.detach()) for p in r[0].parameters()] for r in (run, resumed))
            # DDP orders its buckets anew after its first step, and so rounds sums of 4 otherwise.
            if kind == "fsdp" or distributed.get_world_size() == 2:
                assert same(ours, theirs), (kind, taken)
            torch.testing.assert_close(ours, theirs)
            ours, theirs = ([_full(m) for m in r[2].masks.values()] for r in (run, resumed))
            assert same(ours, theirs), (kind, taken)


def a_distributed_checkpoint_loads_over_other_shards() -> None:
    """From HSDP, two replicas of half as many shards, to as many shards as there are ranks."""
    _, size = _world()
    model = _shard(_net(), _mesh(2, size // 2))
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, REDRAWN)
    _train(model, optimizer, 5)
    folder = _shared_folder()
    _save((model, optimizer, pruner), folder)
    other = _shard(_net())
    second = optim.SGD(other.parameters(), lr=0.05)
    restored = billhook.Pruner(other, second, REDRAWN)
    _load((other, second, restored), folder)
    assert restored.step_count == 5
    assert same(map(_full, pruner.masks.values()), map(_full, restored.masks.values()))
    _train(model, optimizer, 7, first=5)
    _train(other, second, 7, first=5)
    assert same(map(_full, pruner.masks.values()), map(_full, restored.masks.values()))


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        sharded_selection_equals_selection_on_the_whole,
        messages_do_not_grow_with_the_tensor,
        an_update_takes_six_messages_whatever_the_number_of_tensors,
        ddp_equals_the_run_alone,
        ddp_clipping_sees_masked_gradients_under_a_low_rank_reduction,
        ddp_names_the_rank_with_other_weights,
        ddp_names_the_ranks_with_another_configuration,
        only_rank_0_logs,
        fsdp_equals_the_run_alone,
        every_part_draws_the_same_masks_on_every_rank,
        fsdp_holds_gradients_and_state_through_accumulation,
        fsdp_skipped_steps_count_on_no_rank,
        attaching_before_sharding_is_an_error,
        offloaded_to_the_cpu_equals_the_run_alone,
        a_nan_on_one_rank_is_an_error_on_all,
        what_cannot_be_sharded_is_refused,
        the_average_of_a_sharded_model_gets_its_zeros,
        a_distributed_checkpoint_resumes_bit_for_bit,
        a_distributed_checkpoint_loads_over_other_shards,
    )
}


def run_all(rank: int, size: int, folder: str) -> None:
    """The body of each process: every check, and what went wrong with it in a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    outcomes = {}
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            check()
            outcomes[name] = ""
        except Exception:
            outcomes[name] = f"on rank {rank}: {traceback.format_exc()}"
        outcomes[f"seconds of {name}"] = f"{time.perf_counter() - began:.1f}"
    Path(folder, f"{rank}.json").write_text(json.dumps(outcomes))
    distributed.destroy_process_group()
