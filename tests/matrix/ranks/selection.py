"""Masks of sharded tensors, and the messages that they take."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn, optim
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import billhook
from billhook import OneShot
from billhook.mask import select
from billhook.ranking import largest_by_tensor

from .common import full, mesh_of, shard


def _placements() -> Iterator[tuple[DeviceMesh, list[Any]]]:
    size = distributed.get_world_size()
    flat = mesh_of()
    yield flat, [Shard(0)]
    yield flat, [Shard(1)]
    yield flat, [Replicate()]
    if size % 2 == 0:
        grid = mesh_of(size // 2, 2)
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
                    mask = full(select(mine, keep))
                    assert torch.equal(mask, select(each, keep)), (placements, shape, keep)
                    found = largest_by_tensor([mine, each], keep)
                    assert found == largest_by_tensor([each, each], keep)
                    if each is not tied:
                        continue
                    for known in (found[0], max(0, found[0] - 1)):  # right by its threshold, or not
                        largest_by_tensor([mine, each], keep)
                        assert torch.equal(full(select(mine, known)), select(each, known))


def messages_do_not_grow_with_the_tensor() -> None:
    sent: dict[int, list[int]] = {}
    reduce = distributed.all_reduce
    for rows in (64, 4096):
        sizes = sent.setdefault(rows, [])

        def counting(tensor: Tensor, *args: Any, sizes: list[int] = sizes, **kwargs: Any) -> Any:
            sizes.append(tensor.numel() * tensor.itemsize)
            return reduce(tensor, *args, **kwargs)

        scores = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
        mine = distribute_tensor(scores, mesh_of(), [Shard(0)])
        distributed.all_reduce = counting
        select(mine, rows * 32)
        distributed.all_reduce = reduce
    assert sent[64] == sent[4096]
    assert sum(sent[64]) < 50_000


def an_update_takes_six_messages_whatever_the_number_of_tensors() -> None:
    for allocation in (billhook.Uniform(), billhook.Global()):
        for layers in (2, 9):
            torch.manual_seed(0)
            model = nn.Sequential(*[nn.Linear(9, 9, bias=False) for _ in range(layers)])
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(4).round_()  # a threshold cuts through equal weights
            shard(model)
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
            assert 3 <= sent <= 6, (allocation, layers, sent)
