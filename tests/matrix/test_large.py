"""A transformer of 100 million parameters, sharded over two processes by FSDP2."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

import billhook
from billhook.mask import select, survivors

LAYERS, WIDTH = 8, 1_024


def _train(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    file = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=size)
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, dropout=0.0, batch_first=True)
        for _ in range(LAYERS)
    ]
    model = nn.Sequential(*layers)
    assert sum(p.numel() for p in model.parameters()) > 100_000_000
    mesh = init_device_mesh("cpu", (size,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = billhook.Cubic(0.9, 1, 3, frequency=1)
    pruner = billhook.Pruner(model, optimizer, schedule)
    for step in range(1, 4):
        optimizer.zero_grad()
        x = torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(2 * step + rank))
        model(x).square().mean().backward()
        optimizer.step()
        for weight in pruner._weights:
            assert weight.kept == survivors(weight.parameter.numel(), schedule(step))
            kept = _whole(weight.alive())
            assert int(kept.sum()) == weight.kept
            assert not _whole(weight.parameter.detach())[~kept].any()
            if step < 3:  # the values aside are those that were ranked
                assert torch.equal(kept, select(_whole(weight.raw()).abs(), weight.kept))
    assert pruner.finalize().sparsity > 0.89
    distributed.destroy_process_group()


def _whole(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor()
    return full


@pytest.mark.slow
def test_masks_of_a_large_sharded_transformer_are_exact(tmp_path: Path) -> None:
    spawn(_train, (2, str(tmp_path)), nprocs=2)
