"""New masks and held masks: billhook beside torch, numpy and the tools it replaces.

    python benchmarks/masks.py

66 million weights as in a trained PTB-large LSTM (normal, 0.04 wide, not yet pruned), 90% sparse,
fp32, one thread. Every row is measured in every round, one after the other; the table gives
medians, so compare ratios inside one run. The last table is what a user waits for: the step with
masks less the plain step, and the step with an update less the step without.
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


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-5),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True),
}


class Steps:
    """Steps of PTB-large's six matrices whose gradients are there already, with or without masks.

    What a user waits for: gradients go through the accumulation hooks, the optimizer takes its
    step with all its hooks, and an update is whatever a step takes longer than its neighbours.
    """

    def __init__(self, make: Make, schedule: billhook.Cubic | None) -> None:
        torch.manual_seed(0)
        self.model = ptb_lstm("large")
        self.weights = [p for p in self.model.parameters() if p.dim() == 2]
        self.grads = [torch.randn_like(p) * 1e-3 for p in self.weights]
        self.optimizer = make(self.weights)
        if schedule is not None:
            self.pruner = billhook.Pruner(self.model, self.optimizer, schedule)

    def __call__(self) -> float:
        """Milliseconds of accumulating the gradients and of the step."""
        for weight in self.weights:
            weight.grad = None
        copies = [grad.clone() for grad in self.grads]
        start = time.perf_counter()
        torch.autograd.backward(self.weights, copies)
        self.optimizer.step()
        return (time.perf_counter() - start) * 1e3


def waits(make: Make) -> tuple[int, float, float, float, float]:
    """Weights, and milliseconds: a plain step, what masks add, what an update adds, kthvalue.

    All are timed in turn, step by step. The schedule rises from 80% to 90% in 20 updates. kthvalue
    finds the threshold of raw weights, as an update does: it is faster where most are zero.
    """
    window = {"begin_step": 4, "end_step": 64, "frequency": 3, "initial_sparsity": 0.8}
    schedule = billhook.Cubic(SPARSITY, **window)
    plain, pruned = Steps(make, None), Steps(make, schedule)
    times: dict[str, list[float]] = {"plain": [], "held": [], "update": [], "kthvalue": []}
    for step in range(1, 25):
        without, with_masks = plain(), pruned()
        if step <= 10:  # the first update sets 80% aside; memory is touched for the first time
            continue
        times["plain"].append(without)
        times["update" if step in schedule.updates else "held"].append(with_masks)
        if step % 8 == 0:
            kths = [(w.detach(), int(w.numel() * schedule(step))) for w in plain.weights]
            times["kthvalue"].append(
                sum(_milliseconds(lambda w=w, k=k: w.abs().flatten().kthvalue(k)) for w, k in kths)
            )
    plainly, held, update, rank = (statistics.median(each) for each in times.values())
    count = sum(weight.numel() for weight in pruned.weights)
    return count, plainly, held - plainly, update - held, rank


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
    table = Table(title="what a user waits for, ms", title_justify="left")
    for heading in (
        "",
        "plain step",
        "masks add",
        "an update adds",
        "kthvalue",
        "kthvalue / update",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, make in OPTIMIZERS.items():
        count, plain, held_adds, update, rank = waits(make)
        row = f"{plain:,.0f}", f"{held_adds:,.0f}", f"{update:,.0f}", f"{rank:,.0f}"
        table.add_row(f"{name}, {count:,} weights", *row, f"{rank / update:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
