"""Makes the test vectors beside it: programs, inputs, and torch's outputs in fp64, rounded.

``python -m runtime.tests.make_vectors`` in billhook's environment; the files are committed.
"""

from pathlib import Path

import numpy as np
import torch
from tests.fuzz.programs import Branches
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import billhook
from billhook.inference.compiled import CompiledModel
from billhook.inference.graph import Layer, capture_graph
from billhook.inference.int8 import reference
from billhook.inference.int8.calibrate import calibrate
from billhook.inference.int8.inputs import captured, maps_of
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.quantise import quantise
from billhook.inference.int8.ranges import Calibration
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice, Plan
from billhook.inference.report import CompileReport

FOLDER = Path(__file__).parent / "vectors"


class Squeeze(nn.Module):
    """Squeeze and excitation: a factor for each channel, from the means."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.b(y))


class Words(nn.Module):
    """Embedded words, an LSTM whose state goes in and out, and a GRU; time first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 6), nn.Linear(8, 4)
        self.lstm, self.gru = nn.LSTM(6, 5, bidirectional=True), nn.GRU(10, 8)

    def forward(
        self, words: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        y, (h, c) = self.lstm(self.embed(words), (h, c))
        return self.out(self.gru(y)[0]), h, c


class Attention(nn.Module):
    """Encoder layers with padding, products of computed matrices, norms; integers of 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.embed = nn.Embedding(11, 16)

    def forward(self, words: torch.Tensor, padding: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.encoder(self.embed(words), src_key_padding_mask=padding)
        causal = F.scaled_dot_product_attention(y, y, y, is_causal=True)
        similar = torch.softmax(y @ y.transpose(1, 2), 2)
        return {"causal": causal, "similar": similar.flatten(0, 1)}


class Picture(nn.Module):
    """Group norm, transposed convolution, interpolation, padding, a reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(2, 4, 3, 2, 1), nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = F.gelu(self.norm(self.up(x)))
        y = F.pad(y, (1, 0, 0, 2), value=-0.5).amax(1, keepdim=True)
        z = F.interpolate(y, size=(4, 9), mode="bilinear")
        return z.log_softmax(3), F.interpolate(x, (7, 5), mode="bilinear", align_corners=True)


class Bytes(nn.Module):
    """In 8 bits: strides, a depthwise layer, a sum, a concatenation, pools, a mean, vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.wide, self.odd = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 7, (1, 3), padding=(0, 1))
        self.last = nn.Conv2d(31, 20, 3, dilation=2)
        self.first, self.second = nn.Linear(20, 30), nn.Linear(30, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = F.relu6(self.wide(F.relu6(self.deep(x))) + x)
        pooled = F.avg_pool2d(F.max_pool2d(x, 3, 1, 1), 3, 1, 1)
        x = torch.cat([x, self.odd(x), pooled], 1)
        x = self.last(x).relu().mean((2, 3))
        y: torch.Tensor = self.second(self.first(x).relu())
        return y


Inputs = tuple[torch.Tensor, ...]
Kernels = dict[str, str]


def images() -> dict[str, tuple[nn.Module, Inputs, Kernels]]:
    """Each with its inputs and the kernels of its layers; all are sparse where none is named."""
    maps = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 64, 5))
    picture = nn.Sequential(nn.Conv2d(2, 8, 1), nn.MaxPool2d(2, ceil_mode=True))
    excited = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Hardswish(), Squeeze(), nn.Conv2d(8, 4, 1))
    blocks = {"a": "spmm", "d": "fused", "p": "spmm_packed", "s": "spmm", "fc": "sparse"}
    apart = {"a": "spmm_packed", "d": "depthwise", "p": "spmm", "s": "dense", "fc": "dense"}
    branches = torch.randn(2, 2, 11, 13)
    return {
        "maps": (maps, (torch.randn(2, 3, 10, 10),), {"0": "spmm", "3": "sparse"}),
        "picture": (picture, (torch.randn(2, 2, 9, 7),), {"0": "spmm_packed"}),
        "excited": (excited, (torch.randn(2, 2, 9, 7),), {}),
        "fused": (Branches(8), (branches,), blocks),
        "apart": (Branches(8), (branches,), apart),
        "resized": (Picture(), (torch.randn(2, 2, 4, 5),), {}),
    }


def sequences() -> dict[str, tuple[nn.Module, Inputs, Kernels]]:
    """The same."""
    words, states = torch.randint(0, 11, (7, 2)), torch.randn(2, 2, 2, 5).unbind()
    short = torch.randint(0, 11, (2, 5), dtype=torch.int32)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    return {
        "words": (Words(), (words, *states), {}),
        "attention": (Attention(), (short, padding), {}),
    }


def compiled(model: nn.Module, inputs: Inputs, kernels: Kernels) -> CompiledModel:
    """The program, by portable kernels."""
    graph, _ = capture_graph(model, inputs)
    layers = {
        op.name: Choice(kernels.get(op.name, next(k for k in op.kernels_for() if k != "dense")))
        for op in graph.ops
        if isinstance(op, Layer)
    }
    plan = Plan("network", "portable", layers)
    return CompiledModel(Network(graph, layers, 0), plan, CompileReport.of(plan, ""), {})


def in_8_bits() -> dict[str, tuple[nn.Module, torch.Tensor, Kernels]]:
    """Each with its input; layers that are not named run by the kernel 1x4."""
    rows = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 3))
    kernels = {"stem": "all_blocks", "deep": "depthwise", "wide": "8x4", "odd": "windows"}
    kernels |= {"last": "4x4", "first": "16x4", "second": "windows"}
    return {
        "bytes": (Bytes(), torch.randn(2, 3, 13, 11), kernels),
        "rows": (rows, torch.randn(130, 9), {"0": "8x4", "2": "all_blocks"}),
        "filters": (
            nn.Sequential(
                nn.Conv2d(6, 6, 5, 2, 2, groups=6), nn.ReLU(), nn.Conv2d(6, 6, (3, 7), groups=6)
            ),
            torch.randn(2, 6, 11, 17),
            {"0": "depthwise", "2": "depthwise"},
        ),
    }


def write_in_8_bits(name: str, model: nn.Module, x: torch.Tensor, kernels: Kernels) -> None:
    """A program calibrated on its input; its outputs are those of the integer reference."""
    pruned(model)
    with torch.no_grad():
        graph, takes = captured(model, x)
        ranges = calibrate(graph.ops, [maps_of(x, takes)], Calibration([]))
        program = quantise(graph, ranges, takes)
    layers = {op.name: Choice(kernels.get(op.name, "1x4"), 3) for _, op in program.layers()}
    plan = Plan("network", "portable", layers, "int8")
    network = Int8Network(program, layers, "portable")
    fast = CompiledModel(network, plan, CompileReport.of(plan, ""), {})
    billhook.save(fast, FOLDER / f"{name}.billhook.safetensors", gzip=False)
    np.save(FOLDER / f"{name}.in.{program.input_name}.npy", x.numpy())
    y = np.stack([reference.evaluate(program, m.numpy()) for m in maps_of(x, takes)])
    y = y[0, :, 0].T[: len(x)] if program.by_sample else y
    np.save(FOLDER / f"{name}.out.y0.npy", np.ascontiguousarray(y))


def pruned(model: nn.Module) -> None:
    """Weights of normal numbers, of which matrices lose most; always the same."""
    torch.manual_seed(0)
    for weight in model.eval().parameters():
        nn.init.normal_(weight, std=0.5)
        weight.data *= torch.rand_like(weight) < (0.3 if weight.dim() > 1 else 1.0)


def main() -> None:
    """Writes a program for each model, and its inputs and outputs."""
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for name, (model, inputs, kernels) in {**images(), **sequences()}.items():
        pruned(model)
        fast = compiled(model, inputs, kernels)
        billhook.save(fast, FOLDER / f"{name}.billhook.safetensors", gzip=False)
        with torch.no_grad():
            wanted = model.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
        names = [each.name for each in fast.program.graph.inputs]
        for own, x in zip(names, inputs, strict=True):
            np.save(FOLDER / f"{name}.in.{own}.npy", x.numpy())
        for k, y in enumerate(pytree.tree_leaves(wanted)):
            np.save(FOLDER / f"{name}.out.y{k}.npy", y.float().numpy())
    torch.manual_seed(0)
    for name, (model, x, kernels) in in_8_bits().items():
        write_in_8_bits(name, model, x, kernels)


if __name__ == "__main__":
    main()
