"""How far weights that return move under AdamW: ``python benchmarks/returning_weights.py``.

Digits, a 64-128-128-10 network pruned to 90% between steps 200 and 1200 of 1500. The second moments
of returning weights are 0 as billhook leaves them, or the mean of the kept weights' for comparison.
"""

from statistics import mean

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import billhook

LEARNING_RATE = 3e-3
AGES = 1, 2, 3, 5, 10, 20


def run(seed: int, seeded: bool) -> str:
    torch.manual_seed(seed)
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.float() / 16
    first, second, third = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    pruner = billhook.Pruner(model, optimizer, billhook.Cubic(0.9, 200, 1200, frequency=20))
    masks, losses, usual = pruner.masks, [], []
    ages = {name: torch.full(mask.shape, 10_000) for name, mask in masks.items()}
    moved: dict[int, list[float]] = {age: [] for age in AGES}
    returned = 0
    for _ in range(1500):
        rows = torch.randint(1500, (64,))
        before = {name: model.get_parameter(name).detach().clone() for name in masks}
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for name, keep in pruner.masks.items():
            parameter = model.get_parameter(name)
            stayed, back = keep & masks[name], keep & ~masks[name]
            ages[name][stayed] += 1
            ages[name][back] = 0
            distance: Tensor = (parameter.detach() - before[name]).abs() / LEARNING_RATE
            usual.append(distance[stayed].mean().item())
            for age in AGES:
                moved[age] += distance[stayed & (ages[name] == age)].tolist()
            returned += int(back.sum())
            if seeded and back.any():
                second_moment = optimizer.state[parameter]["exp_avg_sq"]
                second_moment[back] = second_moment[stayed].mean()
        masks = pruner.masks
    pruner.finalize()
    accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
    steps = " ".join(f"{mean(moved[age]):.2f}/{max(moved[age]):.2f}" for age in AGES)
    return (
        f"{returned:4} {steps}  {mean(usual[-3000:]):.2f}  {mean(losses[-100:]):.4f} {accuracy:.4f}"
    )


if __name__ == "__main__":
    print("second moment  seed returned  |step|/lr mean/max at age", *AGES, " all  loss accuracy")
    for seeded in (False, True):
        for seed in range(3):
            print("mean of kept " if seeded else "0            ", seed, run(seed, seeded))
