"""Files of models with replaced layers: refused, or run as the dense model with what they hold."""

import copy
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

import billhook
from billhook.errors import BillhookError
from billhook.inference.layers.base import SparseLayer

from . import programs
from .files import File, number

__all__ = ["check", "make", "seeds"]

TOLERANCE = 1e-4
LAYERS = ("lstm", "gru", "attention", "conv", "head")
KERNELS = ("dense", "sparse", "spmm", "spmm_packed", "depthwise")


class EveryKind(nn.Module):
    """A layer of every kind that can be replaced, between some that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.gru = nn.GRU(5, 4, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 3)
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.gru(self.lstm(self.embedding(tokens))[0])[0]
        x = self.norm(x + self.attention(x, x, x)[0])
        scores: torch.Tensor = self.head(self.conv(x.mT).relu().mT) * self.scale
        return scores


def _tokens(batch: int) -> torch.Tensor:
    return torch.randint(7, (batch, 4), generator=torch.Generator().manual_seed(batch))


def seeds(folder: Path) -> list[File]:
    """The model by several plans and codings."""
    torch.manual_seed(0)
    model = EveryKind().eval()
    programs.prune(model)
    files = []
    for codings, dense in zip(
        programs.CODINGS, ((), ("lstm", "conv"), ("attention",)), strict=True
    ):
        kernels = {name: "spmm" if name == "conv" else "sparse" for name in LAYERS}
        kernels |= dict.fromkeys(dense, "dense")
        layers = {name: {"kernel": kernel} for name, kernel in kernels.items()}
        plan = {"version": 1, "mode": "modules", "isa": "portable", "layers": layers}
        fast = billhook.compile(model, _tokens(1), plan=plan)
        files.append(programs.saved(fast, folder, codings))
    return files


def make(rng: random.Random, files: list[File]) -> bytes:
    """The bytes of a changed file."""
    return programs.changed(rng, files, _change_text, 4)


def _change_text(rng: random.Random, program: dict[str, Any]) -> None:
    kind = rng.randrange(6)
    layers = (
        program.get("plan", {}).get("layers") if isinstance(program.get("plan"), dict) else None
    )
    if kind <= 1 and isinstance(layers, dict):
        vectors = rng.choice((1, 2, 8, 16, number(rng)))
        layers[rng.choice(LAYERS)] = {"kernel": rng.choice(KERNELS), "vectors": vectors}
    elif kind == 2 and isinstance(layers, dict):
        layers.pop(rng.choice(LAYERS), None)
    elif kind == 3 and isinstance(program.get("plan"), dict):
        program["plan"]["isa"] = rng.choice(programs.ISAS)
    else:
        programs.anywhere(rng, program)


def check(path: Path, data: bytes) -> str:
    """ "refused" or "ran"; a file that opens must run as the dense model with its weights."""
    path.write_bytes(data)
    with torch.device("meta"):
        model = EveryKind()
    try:
        fast = billhook.load_compiled(path, model)
    except BillhookError:
        return "refused"
    dense = EveryKind().eval().requires_grad_(False)
    dense.load_state_dict(_state(fast.program))
    exact = copy.deepcopy(dense).double()
    for batch in (1, 3):
        given, expected = fast(_tokens(batch)), exact(_tokens(batch)).float()
        assert given.shape == expected.shape
        if _is_near(dense(_tokens(batch)), expected):  # else fp32 is not enough, in torch too
            assert _is_near(given, expected), f"{given}, not {expected}"
    return "ran"


def _state(program: nn.Module) -> dict[str, torch.Tensor]:
    """The dense model's state, from what the file's layers hold."""
    state = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    for name, layer in program.named_modules():
        if isinstance(layer, SparseLayer):
            for key, weight in layer.weights.items():
                if weight is not None:
                    state[f"{name}.{key}"] = programs.dense_weight(weight).float()
    return state


def _is_near(given: torch.Tensor, expected: torch.Tensor) -> bool:
    distance = float((given - expected).norm())
    return distance <= TOLERANCE * (float(expected.norm()) + 1)
