"""Pruning under DDP and FSDP2, on as many CPU processes as torchrun starts.

    torchrun --nproc-per-node=2 examples/ddp_fsdp.py

Each process trains on its own batches. Wrap or shard the model first, then make the optimizer, then
the Pruner; the loop stays as it is. The masks are the same on all ranks, and FSDP's are exactly
those of the whole tensors, although no rank ever holds one.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import billhook


def make_model() -> nn.Sequential:
    torch.manual_seed(0)  # every rank starts from the same weights
    return nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1))


def train(model: nn.Module) -> billhook.Pruner:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = billhook.Cubic(0.9, begin_step=20, end_step=120, frequency=10)
    pruner = billhook.Pruner(model, optimizer, schedule)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(150):
        x = torch.randn(64, 32, generator=generator)
        loss = (model(x) - x[:, :4].sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    report = pruner.finalize(keep_masks=True)  # counts over all ranks, so all ranks call it
    if dist.get_rank() == 0:
        print(f"{type(model).__name__}: {report.nonzero} of {report.numel} weights are left")
        print(report)
    return pruner


def main() -> None:
    dist.init_process_group("gloo")
    train(DistributedDataParallel(make_model()))

    model = make_model()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    train(model)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
