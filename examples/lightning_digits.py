"""Pruning as a Lightning callback, on scikit-learn's digits.

    python examples/lightning_digits.py

Needs the extras `lightning` and `study` (for scikit-learn).
"""

import argparse
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import billhook
from billhook.integrations.lightning import PruningCallback


class Digits(LightningModule):
    """A network of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    """Train, prune, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    options = parser.parse_args()
    seed_everything(0)
    pictures, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pictures, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x))
    test, train = order[:360], order[360:]
    batches = DataLoader(TensorDataset(x[train], y[train]), batch_size=64, shuffle=True)
    schedule = billhook.Cubic.over(len(batches) * options.epochs, final_sparsity=0.9)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        callbacks=[PruningCallback(schedule)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    model = Digits()
    trainer.fit(model, batches)
    with torch.no_grad():
        accuracy = float((model.net(x[test]).argmax(1) == y[test]).float().mean())
    options.out.mkdir(parents=True, exist_ok=True)
    saved = billhook.save(model.net, options.out / "model.billhook.safetensors")
    print(f"accuracy {accuracy:.1%}, file {saved.ratio:.1f} times smaller than dense")


if __name__ == "__main__":
    main()
