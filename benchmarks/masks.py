"""New masks and held masks: billhook beside torch, numpy and the tools it replaces.

    python benchmarks/masks.py

66 million weights as in a trained PTB-large LSTM (normal, 0.04 wide, not yet pruned), 90% sparse,
fp32, one thread. Every row is measured in every round, one after the other; the table gives
medians, so compare ratios inside one run.
"""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

import billhook
from billhook.mask import Mask, select
from billhook.models import ptb_lstm

WEIGHTS = 66_000_000
SPARSITY = 0.9
ROUNDS = 5

# torch returns large blocks to the system and faults them in again at every use: not what a
# training process with a warm heap sees, and it would flatter whoever writes in place.
_HEAP = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "34359738368"}


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first round warms up
        for name, call in calls.items():
            times[name].append(_milliseconds(call))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def _torch_ao(weight: Tensor) -> Callable[[], object]:
    layer = nn.Linear(weight.numel() // 1000, 1000, bias=False)
    layer.weight = nn.Parameter(weight.view(1000, -1))
    model = nn.Sequential(layer)
    sparsifier = WeightNormSparsifier(SPARSITY, (1, 1), 1)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    return sparsifier.step


def new_masks(weight: Tensor) -> dict[str, float]:
    """Milliseconds from scores to a mask of the largest tenth."""
    scores = weight.abs()
    keep = round((1 - SPARSITY) * weight.numel())
    rank = weight.numel() - keep
    return _medians(
        {
            "billhook": lambda: select(scores, keep),
            "numpy.partition (threshold alone)": lambda: np.partition(scores.numpy(), rank),
            "torch.kthvalue (threshold alone)": lambda: scores.kthvalue(rank + 1),
            "torch.topk": lambda: scores.topk(keep, sorted=False),
            "torch.nn.utils.prune": lambda: prune.L1Unstructured(SPARSITY).compute_mask(
                weight, torch.ones_like(weight)
            ),
            "torch.ao.pruning": _torch_ao(weight),
        },
        ROUNDS,
    )


def held_masks(weight: Tensor) -> dict[str, float]:
    """Milliseconds to bring a fresh tensor, and one that is zero already, under the mask."""
    keep = select(weight.abs(), round((1 - SPARSITY) * weight.numel()))
    mask, floats = Mask(keep), keep.float()
    fresh, held, product = weight.clone(), weight * floats, torch.empty_like(weight)
    return _medians(
        {
            "refill (subtracted below)": lambda: fresh.copy_(weight),
            "billhook, gradient": lambda: (fresh.copy_(weight), mask.zero_(fresh)),
            "billhook, weight held at zero": lambda: mask.zero_(held),
            "multiply by a float mask": lambda: (fresh.copy_(weight), fresh.mul_(floats)),
            "multiply by a bool mask": lambda: (fresh.copy_(weight), fresh.mul_(keep)),
            "torch.nn.utils.prune, forward": lambda: torch.mul(floats, weight, out=product),
        },
        ROUNDS,
    )


def training_step() -> tuple[float, float]:
    """Milliseconds of a PTB-large training step, and what masking adds to it by itself."""
    model = ptb_lstm("large")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    words = torch.randint(10_000, (20, 36))

    def step() -> None:
        optimizer.zero_grad()
        logits, _ = model(words[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    plain = _medians({"step": step}, 3)["step"]
    pruner = billhook.Pruner(model, optimizer, billhook.OneShot(SPARSITY))
    masks = {name: Mask(keep) for name, keep in pruner.masks.items()}
    parameters = {name: p for name, p in model.named_parameters() if name in masks}
    grads = {name: torch.randn_like(p) for name, p in parameters.items()}

    def hold() -> None:
        for name, mask in masks.items():
            mask.zero_(grads[name])
            mask.zero_(parameters[name])

    added = []
    for _ in range(ROUNDS):
        for grad in grads.values():
            grad.normal_()
        added.append(_milliseconds(hold))
    pruner.detach()
    return plain, statistics.median(added)


def _print(title: str, times: dict[str, float], unit: str) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("", "ms", "times billhook's"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in times.items():
        table.add_row(name, f"{value:,.0f}", f"{value / times[unit]:.1f}")
    Console(width=90).print(table)


def main() -> None:
    if not _HEAP.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | _HEAP)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    weight = torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0)) * 0.04
    _print(f"new mask, {WEIGHTS:,} weights", new_masks(weight), "billhook")
    held = held_masks(weight)
    refill = held.pop("refill (subtracted below)")
    for name in ("billhook, gradient", "multiply by a float mask", "multiply by a bool mask"):
        held[name] -= refill
    _print(f"masks in force, {WEIGHTS:,} weights", held, "billhook, gradient")
    plain, added = training_step()
    Console().print(
        f"PTB-large training step, batch 20, 35 words: {plain:,.0f} ms; gradients and weights "
        f"masked: {added:,.0f} ms, {added / plain:.2%}"
    )


if __name__ == "__main__":
    main()
