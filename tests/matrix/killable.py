"""A training run that may be killed at any moment: ``python killable.py FOLDER STEPS``.

Model, optimizer, pruner, learning rate, shuffled order of the data and random state are one file,
written aside and renamed, so there is always one whole checkpoint or none.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import billhook

EVERY = 3
ROWS, BATCH = 40, 8


class Run:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.data = torch.randn(ROWS, 10), torch.randint(4, (ROWS,))
        self.model = nn.Sequential(nn.Linear(10, 24), nn.Dropout(0.2), nn.ReLU(), nn.Linear(24, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.rate = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 100)
        schedule = billhook.Cubic(0.9, begin_step=6, end_step=60, frequency=6)
        self.pruner = billhook.Pruner(self.model, self.optimizer, schedule)
        self.parts: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "rate": self.rate,
            "pruner": self.pruner,
        }
        self.order: list[int] = []  # what is left of this epoch
        self.step = 0

    def take_step(self) -> None:
        if not self.order:
            self.order = torch.randperm(ROWS).tolist()
        rows, self.order = self.order[:BATCH], self.order[BATCH:]
        x, y = (tensor[rows] for tensor in self.data)
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        self.rate.step()
        self.step += 1

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"random": torch.get_rng_state(), "order": self.order, "step": self.step}
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.order, self.step = state["order"], state["step"]
        torch.set_rng_state(state["random"])


def main(folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    run = Run()
    if (folder / "last.pt").exists():
        run.load(folder / "last.pt")
    print("from", run.step, flush=True)
    while run.step < steps:
        run.take_step()
        print(run.step, flush=True)
        if run.step % EVERY == 0:
            run.save(folder / "last.pt")
    run.save(folder / "last.pt")
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
