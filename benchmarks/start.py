"""What starting a compiled program takes: ``python benchmarks/start.py``, on Linux.

InceptionV3 as one program and the large PTB LSTM with replaced layers, with 87.5 and 90% random
zeros and all their layers sparse, are compiled and saved; ``start.py FILE [MODEL INPUT]`` measures
a file alone. Loading, and a first call where layers were replaced, which packs them, happen in a
process of their own; the peak is of resident memory beyond what that process had before, what one
run takes included.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import billhook
from billhook.inference import isa, kernels
from billhook.inference.graph import Conv, Linear, capture_graph
from billhook.inference.network.network import Network
from billhook.models import inception_v3, ptb_lstm
from billhook.named_model import build_model

MIB = 2**20
SCRATCH = 3 * MIB  # panels that a kernel fills, of at most 4608 rows in the networks measured here
LSTM = 'ptb_lstm(size="large")', "35,1"


def pruned(model: nn.Module, sparsity: float) -> nn.Module:
    """Zeros at random places."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) >= sparsity)
    return model.eval()


def save(path: Path, model: nn.Module, x: torch.Tensor, mode: str, layers: dict[str, str]) -> None:
    """The program that a fixed plan makes, instead of a race."""
    choices = {name: {"kernel": kernel} for name, kernel in layers.items()}
    plan = {"version": 1, "mode": mode, "isa": isa.best("fp32"), "layers": choices}
    billhook.save(billhook.compile(model, x, plan=plan), path)


def save_inception(path: Path) -> None:
    """A whole network."""
    model, x = pruned(inception_v3(), 0.875), torch.rand(1, 3, 299, 299)
    ops = [op for op in capture_graph(model, (x,))[0].ops if isinstance(op, Conv | Linear)]
    layers = {op.name: "sparse" if isinstance(op, Linear) else "spmm" for op in ops}
    save(path, model, x, "network", layers)


def save_lstm(path: Path) -> None:
    """Replaced layers; the embedding is dense."""
    model = pruned(ptb_lstm("large"), 0.9)
    names = [name for name, m in model.named_modules() if isinstance(m, nn.LSTM | nn.Linear)]
    x = torch.zeros(35, 1, dtype=torch.long)
    save(path, model, x, "modules", dict.fromkeys(names, "sparse"))


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def _run_another() -> None:
    """So that the code of torch and of the kernels is in memory before anything is measured."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.billhook.safetensors"
        plan = {"version": 1, "mode": "network", "isa": "portable"}
        layers = {"0": {"kernel": "spmm_packed"}}
        small = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
        x = torch.zeros(1, 8, 7, 7)
        billhook.save(billhook.compile(small, x, plan={**plan, "layers": layers}), path)
        billhook.load_compiled(path)


def measure(path: Path, target: str | None, shape: str) -> dict[str, float]:
    """MiB at the peak of loading, of the packed program and of the file; and the peak allowed."""
    kernels.isa()  # the library is loaded
    _run_another()
    model = None if target is None else build_model(target)
    tokens = target is not None and target.startswith("ptb_lstm")
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    compiled = billhook.load_compiled(path, model)
    if model is not None:
        sides = [int(side) for side in shape.split(",")]
        compiled(torch.zeros(sides, dtype=torch.long if tokens else torch.float32))
    peak = resident("VmHWM") - before
    packed, size = compiled.nbytes, os.path.getsize(path)
    # The program is run once when it is opened, and keeps the workspace for the next call.
    workspace = 0
    if isinstance(compiled.program, Network):
        workspace = 4 * compiled.program.lowering.placed.size
    limit = 1.5 * packed + size + workspace + SCRATCH
    found = {"peak": peak, "packed": packed, "file": size, "limit": limit}
    return {name: round(value / MIB, 1) for name, value in found.items()}


def main() -> None:
    """Prints one line of JSON for each file."""
    if len(sys.argv) > 1:
        path, target, shape = [*sys.argv[1:], None, ""][:3]
        print(json.dumps(measure(Path(str(path)), target, str(shape))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for make, arguments in ((save_inception, ()), (save_lstm, LSTM)):
            path = Path(folder) / "program.billhook.safetensors"
            make(path)
            subprocess.run([sys.executable, __file__, str(path), *arguments], check=True)


if __name__ == "__main__":
    main()
