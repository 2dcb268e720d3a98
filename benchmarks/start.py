"""What starting a compiled program takes: ``python benchmarks/start.py [FILE]``, on Linux.

Without a file, InceptionV3 with 87.5% random zeros and all its layers sparse is compiled and saved
first. Loading happens in a process of its own; the peak is of resident memory beyond what that
process had before, the mapped file included.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import billhook
from billhook.inference import compiler, kernels

MIB = 2**20


def make(path: Path) -> None:
    """InceptionV3's program, with a fixed plan instead of a race."""
    from billhook.inference.graph import Conv, Linear, capture
    from billhook.models import inception_v3

    torch.manual_seed(0)
    model = inception_v3().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) >= 0.875)
    x = torch.rand(1, 3, 299, 299)
    layers = {
        op.name: {"kernel": "sparse" if isinstance(op, Linear) else "spmm"}
        for op in capture(model, x)
        if isinstance(op, Conv | Linear)
    }
    isa = kernels.ISA_NAMES[kernels.isa()]
    plan = {"version": 1, "mode": "network", "isa": isa, "layers": layers}
    billhook.save(billhook.compile(model, x, plan=plan), path)


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def measure(path: Path) -> dict[str, float]:
    """MiB at the peak of loading, of the packed weights and of the file; and the peak allowed."""
    kernels.isa()  # the library is loaded
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    compiled = compiler.load_compiled(path)
    peak = resident("VmHWM") - before
    packed, size = compiled.network.nbytes, os.path.getsize(path)
    limit = 1.5 * packed + size
    found = {"peak": peak, "packed": packed, "file": size, "limit": limit}
    return {name: round(value / MIB, 1) for name, value in found.items()}


def main() -> None:
    """Prints one line of JSON."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.billhook.safetensors"
        make(path)
        subprocess.run([sys.executable, __file__, str(path)], check=True)


if __name__ == "__main__":
    main()
