"""Checkpoints of torch.distributed.checkpoint."""

import tempfile

import torch
from torch import distributed, nn, optim
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.nn.parallel import DistributedDataParallel

import billhook

from ..common import same
from .common import REDRAWN, full, mesh_of, net, shard, train

Run = tuple[nn.Module, optim.Optimizer, billhook.Pruner]


def _fresh(kind: str, seed: int) -> Run:
    model: nn.Module = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * seed)
    model = DistributedDataParallel(model) if kind == "ddp" else shard(model)  # type: ignore[arg-type]
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
            train(*run[:2], taken)
            folder = _shared_folder()
            _save(run, folder)
            train(*run[:2], 12 - taken, first=taken)
            resumed = _fresh(kind, 1)
            _load(resumed, folder)
            train(*resumed[:2], 12 - taken, first=taken)
            ours, theirs = ([full(p.detach()) for p in r[0].parameters()] for r in (run, resumed))
            # DDP orders its buckets anew after its first step, and so rounds sums of 4 otherwise.
            if kind == "fsdp" or distributed.get_world_size() == 2:
                assert same(ours, theirs), (kind, taken)
            torch.testing.assert_close(ours, theirs)
            ours, theirs = ([full(m) for m in r[2].masks.values()] for r in (run, resumed))
            assert same(ours, theirs), (kind, taken)


def a_distributed_checkpoint_loads_over_other_shards() -> None:
    """From HSDP, two replicas of half as many shards, to as many shards as there are ranks."""
    size = distributed.get_world_size()
    model = shard(net(), mesh_of(2, size // 2))
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    pruner = billhook.Pruner(model, optimizer, REDRAWN)
    train(model, optimizer, 5)
    folder = _shared_folder()
    _save((model, optimizer, pruner), folder)
    other = shard(net())
    second = optim.SGD(other.parameters(), lr=0.05)
    restored = billhook.Pruner(other, second, REDRAWN)
    _load((other, second, restored), folder)
    assert restored.step_count == 5
    assert same(map(full, pruner.masks.values()), map(full, restored.masks.values()))
    train(model, optimizer, 7, first=5)
    train(other, second, 7, first=5)
    assert same(map(full, pruner.masks.values()), map(full, restored.masks.values()))
