"""Makes the test vectors beside it: programs, inputs, and torch's outputs in fp64, rounded.

``python -m runtime.tests.make_vectors`` in billhook's environment; the files are committed.
"""

from pathlib import Path

import numpy as np
import torch
from tests.fuzz.programs import Branches
from torch import nn
from torch.nn import functional as F

import billhook

FOLDER = Path(__file__).parent / "vectors"


class Squeeze(nn.Module):
    """Squeeze and excitation: a factor for each channel, from the means."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.b(y))


def models() -> dict[str, tuple[nn.Module, tuple[int, int, int], dict[str, str]]]:
    """Each with the shape of its input and the kernels of its layers."""
    maps = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 64, 5))
    picture = nn.Sequential(nn.Conv2d(2, 8, 1), nn.MaxPool2d(2, ceil_mode=True))
    excited = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Hardswish(), Squeeze(), nn.Conv2d(8, 4, 1))
    blocks = {"a": "spmm", "d": "fused", "p": "spmm_packed", "s": "spmm", "fc": "sparse"}
    apart = {"a": "spmm_packed", "d": "depthwise", "p": "spmm", "s": "dense", "fc": "dense"}
    return {
        "maps": (maps, (3, 10, 10), {"0": "spmm", "3": "sparse"}),
        "picture": (picture, (2, 9, 7), {"0": "spmm_packed"}),
        "excited": (
            excited,
            (2, 9, 7),
            {"0": "spmm", "2.a": "sparse", "2.b": "sparse", "3": "spmm"},
        ),
        "fused": (Branches(8), (2, 11, 13), blocks),
        "apart": (Branches(8), (2, 11, 13), apart),
    }


def main() -> None:
    """Writes three files for each model."""
    FOLDER.mkdir(exist_ok=True)
    for name, (model, shape, layers) in models().items():
        torch.manual_seed(0)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.5)
            weight.data *= torch.rand_like(weight) < (0.3 if weight.dim() > 1 else 1.0)
        x = torch.randn(2, *shape)
        choices = {layer: {"kernel": kernel} for layer, kernel in layers.items()}
        plan = {"version": 1, "mode": "network", "isa": "portable", "layers": choices}
        fast = billhook.compile(model.eval(), x[:1], plan=plan)
        billhook.save(fast, FOLDER / f"{name}.billhook.safetensors", gzip=False)
        np.save(FOLDER / f"{name}.input.npy", x.numpy())
        with torch.no_grad():
            np.save(FOLDER / f"{name}.output.npy", model.double()(x.double()).float().numpy())


if __name__ == "__main__":
    main()
