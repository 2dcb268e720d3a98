"""Modules and trainers for the tests of Lightning's callback."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from billhook import Cubic
from billhook.integrations.lightning import PruningCallback

SCHEDULE = Cubic(0.8, 2, 17, frequency=3)
STEPS = 24
EPOCH = 6  # batches


def net_of_two() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))


def loss_of(net: nn.Module, batch: int) -> Tensor:
    x = torch.randn(8, 10, generator=torch.Generator().manual_seed(batch))
    return nn.functional.cross_entropy(net(x), torch.arange(8) % 5)


class Module(LightningModule):
    """Batch t of the run is made from seed t; the score is better the denser the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net_of_two()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.net.parameters(), lr=0.05)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = loss_of(self.net, self.trainer.fit_loop.total_batch_idx)
        self.log("train_score", float(sparsity_of(self)), on_step=True, on_epoch=False)
        return loss

    def train_dataloader(self) -> Any:
        return DataLoader(torch.zeros(EPOCH, 1))  # type: ignore[arg-type]


class Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def sparsity_of(module: nn.Module) -> float:
    weights = [p for p in module.parameters() if p.dim() == 2]
    return sum(int(p.eq(0).sum()) for p in weights) / sum(p.numel() for p in weights)


def trainer_of(
    folder: Path, *callbacks: Callback, max_steps: int = STEPS, **kwargs: Any
) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=max_steps,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, "enable_checkpointing": False} | kwargs,
    )


def saving_in(folder: Path, **kwargs: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "saved", "{step}", save_top_k=-1, **kwargs)


def fit(
    folder: str, kill: int = 0, resume: str | None = None
) -> tuple[Module, PruningCallback, Trainer]:
    module, pruning = Module(), PruningCallback(SCHEDULE)
    saving = saving_in(Path(folder), every_n_train_steps=5)
    trainer = trainer_of(Path(folder), Kill(kill), saving, pruning, enable_checkpointing=True)
    trainer.fit(module, ckpt_path=resume)
    return module, pruning, trainer
