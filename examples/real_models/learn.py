"""Pruning a trained network gradually, while it learns from what it was."""

import copy

import torch
from task import Task
from torch import nn

import billhook


def pruned(task: Task, sparsity: float, steps: int) -> nn.Module:
    """A copy with zeros. It learns, without labels, to give what the dense network gives; with no
    steps it is pruned at once, and batch norms are measured anew. While it learns norms stay as in
    evaluation."""
    model = copy.deepcopy(task.model)
    if steps == 0:
        billhook.prune(model, sparsity, rules=task.rules, allocation=task.allocation)
        if any(isinstance(each, nn.BatchNorm2d) for each in model.modules()):
            billhook.recalibrate(model, [images for (images,) in task.batches(8)])
        return model
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate, steps, pct_start=0.1)
    schedule = billhook.Cubic.over(steps, final_sparsity=sparsity)
    pruner = billhook.Pruner(
        model, optimizer, schedule, rules=task.rules, allocation=task.allocation
    )
    for step, inputs in enumerate(task.batches(steps)):
        with torch.no_grad():
            wanted = task.model(*inputs)
        optimizer.zero_grad()
        loss = task.distance(model(*inputs), wanted)
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 50 == 0:
            print(f"step {step}: {loss.item():.4f}", flush=True)
    pruner.finalize()
    return model
