"""Programs whose text and tensors were changed: refused, or run as torch runs what they say."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import billhook
from billhook.inference import isa
from billhook.inference.graph import Layer, capture_graph

from .files import File, Tensor, build, change, flip, number, parse
from .reference import dense_weight
from .runs import check

__all__ = [
    "Branches",
    "anywhere",
    "changed",
    "check",
    "dense_weight",
    "make",
    "prune",
    "saved",
    "seeds",
    "set_text",
]

ISAS = tuple(reversed(isa.names("fp32")))
CODINGS = ("dense", ("dense", "bitmask"), ("dense", "entropy"))
KERNELS = ("dense", "spmm", "spmm_packed", "depthwise", "fused", "sparse")


class Branches(nn.Module):
    """Strides, a depthwise layer, a concatenation, a sum, pools, and a linear head."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, width, 3, padding=1)
        self.d = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.p = nn.Conv2d(width, width, 1)
        self.s = nn.Conv2d(2 * width, 6, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        y = F.relu6(self.p(F.relu(self.d(x))))
        y = F.max_pool2d(torch.cat([x + y, y], 1), 3, 1, 1)
        y = F.avg_pool2d(self.s(y), 2, 1, count_include_pad=False)
        scores: torch.Tensor = self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return scores


def seeds(folder: Path) -> list[File]:
    """Programs of small networks, by several plans."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    maps = nn.Sequential(
        nn.Conv2d(2, 3, 3, dilation=2, bias=False), nn.MaxPool2d(2, ceil_mode=True)
    )
    plans = {
        "spmm": {"conv": "spmm", "d": "fused", "p": "spmm_packed", "linear": "sparse"},
        "packed": {"conv": "spmm_packed", "d": "depthwise", "s": "spmm", "linear": "dense"},
        "dense": {"conv": "dense", "d": "dense", "linear": "dense"},
    }
    files = []
    for model, shape in ((Branches(), (2, 7, 6)), (wide, (2, 6, 6)), (maps, (2, 9, 8))):
        prune(model)
        x = torch.rand(1, *shape)
        for codings, plan in zip(CODINGS, plans.values(), strict=True):
            layers = {
                name: {
                    "kernel": plan.get(name, plan["conv" if layer.weight.dim() > 2 else "linear"])
                }
                for name, layer in model.named_modules()
                if isinstance(layer, nn.Conv2d | nn.Linear)
            }
            whole = {"version": 1, "mode": "network", "isa": "portable", "layers": layers}
            files.append(saved(billhook.compile(model.eval(), x, plan=whole), folder, codings))
    return [*files, *(_whole(model, inputs, folder) for model, inputs in _others())]


class Words(nn.Module):
    """Embedding, LSTM and GRU with states, attention with a mask, norms, joins, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.gru, self.qkv = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 24)
        self.mask = nn.Parameter(torch.randn(5, 5))

    def forward(self, words: torch.Tensor, h: torch.Tensor) -> dict[str, torch.Tensor]:
        y, (_, cells) = self.lstm(self.norm(self.embed(words)))
        y, last = self.gru(y, h)
        q, k, v = (p.unflatten(2, (2, 4)).transpose(1, 2) for p in self.qkv(y).chunk(3, 2))
        scores = torch.softmax(q @ k.transpose(2, 3) / 2 + self.mask, 3) @ v
        y = F.scaled_dot_product_attention(q, k, scores, attn_mask=self.mask)
        y = y.transpose(1, 2).flatten(2)
        return {"y": torch.cat([y, y.mean(1, keepdim=True)], 1), "cells": cells, "last": last}


class Pictures(nn.Module):
    """Group norm, resizing, transposed convolution, squeeze and excitation, padding, shuffles."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4)
        self.gate, self.prelu = nn.Linear(4, 4), nn.PReLU(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = F.gelu(self.norm(self.up(x)))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        y = (
            self.prelu(F.pad(y, (1, 0, 0, 2), value=0.5) - 0.1).amax(1, keepdim=True)
            + x[:, :1, :1, :1]
        )
        z = F.interpolate(y, size=(4, 9), mode="bilinear")
        return F.pixel_unshuffle(F.interpolate(x, scale_factor=2), 2).tanh(), z / (1 + z.abs())


class Lines(nn.Module):
    """Sequences of any length: embedding, LSTM and GRU both ways, a step's product, all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(9, 6), nn.Linear(8, 3)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, _ = self.lstm(self.embed(words))
        z, _ = self.gru(F.relu(y))
        return self.fc(torch.cat([z, y[:, :, 4:]], 2)), z.mean(1)


def _others() -> list[tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    words = torch.randint(0, 9, (1, 5))
    return [
        (Words(), (words, torch.rand(1, 1, 8))),
        (Lines(), (words,)),
        (Pictures(), (torch.rand(1, 2, 4, 5),)),
    ]


def _whole(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path) -> File:
    """The program of a model, all its layers sparse."""
    prune(model)
    graph, _ = capture_graph(model.eval(), inputs)
    layers = {
        op.name: {"kernel": next(k for k in op.kernels_for() if k != "dense")}
        for op in graph.ops
        if isinstance(op, Layer)
    }
    plan = {"version": 1, "mode": "network", "isa": "portable", "layers": layers}
    return saved(billhook.compile(model, inputs, plan), folder, "dense")


def prune(model: nn.Module) -> None:
    """Zeros at random in all matrices."""
    for weight in model.parameters():
        weight.data *= torch.rand_like(weight) < (0.4 if weight.dim() > 1 else 1.0)


def saved(fast: nn.Module, folder: Path, encoding: Any) -> File:
    """The file of a compiled model, without the example: a changed program is then not refused for
    its outputs alone, and an attacker would make his own."""
    billhook.save(fast, folder / "seed", encoding=encoding, gzip=False)
    file = parse((folder / "seed").read_bytes())
    text = next(t for t in file.tensors if t.name == "program")
    program = json.loads(text.data)
    program.pop("example", None)
    set_text(text, program)
    return file


def set_text(text: Tensor, program: dict[str, Any]) -> None:
    """Makes a program's text another one."""
    text.data = json.dumps(program).encode()
    text.shape = [len(text.data)]
    text.record = f"dense U8 [{len(text.data)}]"


def make(rng: random.Random, files: list[File]) -> bytes:
    """The bytes of a changed program."""
    return changed(rng, files, _change_text, 5)


def changed(
    rng: random.Random,
    files: list[File],
    change_text: Callable[[random.Random, dict[str, Any]], None],
    both: int,
) -> bytes:
    """A file whose text, tensors or form were changed; of the kinds 0 to 7 ``both`` changes text
    and tensors, those below it text alone."""
    file = copy.deepcopy(rng.choice(files))
    text = next(t for t in file.tensors if t.name == "program")
    kind = rng.randrange(8)
    if kind <= both:
        program = json.loads(text.data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change_text(rng, program)
        set_text(text, program)
    if kind >= both:
        tensor = rng.choice(file.tensors)
        changes = _change_numbers if rng.random() < 0.8 else flip
        tensor.data = changes(rng, tensor.data)
    if kind == 7:
        file = change(rng, file)
    return build(file, rng)


def _change_numbers(rng: random.Random, data: bytes) -> bytes:
    """One number of two or four bytes is another: a column, a row's begin, or a weight."""
    width = rng.choice((2, 4))
    if len(data) < width:
        return data
    at = rng.randrange(len(data) // width) * width
    old = int.from_bytes(data[at : at + width], "little")
    new = number(rng, old)
    changed = (int(new) % 256**width if type(new) is int else 1).to_bytes(width, "little")
    return data[:at] + changed + data[at + width :]


def _change_text(rng: random.Random, program: dict[str, Any]) -> None:
    """One thing the text says is another."""
    kind = rng.randrange(12)
    if kind >= 10:
        anywhere(rng, program.get("run"))
        return
    if "longer" in program and rng.random() < 0.4:
        _change_longer(rng, program)
        return
    try:
        ops, layers = program["ops"], program["plan"]["layers"]
        op, layer = rng.choice(ops), rng.choice(list(layers))
    except (LookupError, TypeError):  # gone, by an earlier change
        return
    if kind <= 3 and isinstance(op, dict):
        _change_op(rng, op, len(ops))
    elif kind == 4:
        choice = {
            "kernel": rng.choice(KERNELS),
            "vectors": rng.choice((1, 2, 3, 8, 16, number(rng))),
        }
        layers[layer] = choice
    elif kind == 5:
        program["plan"]["isa"] = rng.choice(ISAS)
    elif kind == 6:
        ops.insert(rng.randrange(len(ops) + 1), copy.deepcopy(op))
    elif kind == 7:
        ops.remove(op)
    elif kind == 8:
        _change_border(rng, program)
    else:
        anywhere(rng, program)


def _change_longer(rng: random.Random, program: dict[str, Any]) -> None:
    """What graphs of other lengths follow from: by itself, or as the network itself is changed."""
    longer, kind = program["longer"], rng.randrange(6)
    if not isinstance(longer, dict) or not isinstance(longer.get("ops"), list) or not longer["ops"]:
        return  # gone, by an earlier change
    at = rng.randrange(len(longer["ops"]))
    if kind == 0:
        anywhere(rng, longer)
    elif kind == 1:
        longer["most"] = rng.choice((0, 1, 2, 2**20, 2**40, 2**63, number(rng)))
    elif kind == 2:
        _change_border(rng, longer)
    elif isinstance(longer["ops"][at], dict):
        state = rng.getstate()
        _change_op(rng, longer["ops"][at], len(longer["ops"]))
        own = program.get("ops")
        if kind == 3 and isinstance(own, list) and at < len(own) and isinstance(own[at], dict):
            rng.setstate(state)
            _change_op(rng, own[at], len(own))


def _change_border(rng: random.Random, program: dict[str, Any]) -> None:
    """One setting of an input or an output is another."""
    borders = [program.get("inputs"), program.get("outputs")]
    found = [each for border in borders if isinstance(border, list) for each in border]
    border = rng.choice(found) if found else None
    if not isinstance(border, dict) or not border:  # gone, by an earlier change
        return
    key, shape = rng.choice(list(border)), border.get("shape")
    border[key] = (
        shape[::-1] if key == "shape" and isinstance(shape, list) else number(rng, border[key])
    )


def _change_op(rng: random.Random, op: dict[str, Any], count: int) -> None:
    if not op:
        return
    key = rng.choice(list(op))
    value = op[key]
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        value[at] = rng.randrange(-1, count) if key == "inputs" else number(rng, value[at])
        if rng.random() < 0.1:
            value.append(value[0])
    elif key == "activation":
        op[key] = rng.choice(("none", "relu", "relu6", "tanh"))
    elif key == "kind":
        op[key] = rng.choice(
            ("max", "average", "mean", "add", "concat", "flatten", "activation", "min")
        )
    elif key == "name":
        op[key] = rng.choice(("a", "d", "p", "s", "fc", "0", "1", ""))
    elif key == "type":
        op[key] = rng.choice(
            ("Conv", "Linear", "Pool", "Other", "Softmax", "Reduce", "Slice", "Join")
        )
    elif key == "function":
        op[key] = rng.choice(("mul", "add", "sub", "sigmoid", "gelu", "affine", "clamp", "maximum"))
    else:
        op[key] = number(rng, value)


def anywhere(rng: random.Random, value: Any) -> None:
    """Some number at any depth is another, or a part is missing."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if not isinstance(value[key], dict | list) or rng.random() < 0.1:
            if rng.random() < 0.3:
                del value[key]
            else:
                value[key] = number(rng, value[key])
            return
        value = value[key]
