"""Compile every GPU kernel for a device that need not be there; one JSON line for each.

    python tests/backends/compile_kernels.py cuda:90

Prints the kernel, its settings, and what the compiler says: bytes of stack (where registers that
spill go) and whether 128 bits are loaded and stored at a time.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from billhook.backends import triton_kernels as kernels

TABLES = {
    **dict.fromkeys(["addresses", "weights", "asides", "bits", "fresh", "layout"], "*i64"),
    **dict.fromkeys(["first_piece", "keeps"], "*i64"),
    **dict.fromkeys(
        ["slot", "start", "numel", "found", "nans", "counts", "rank", "ties", "before"], "*i32"
    ),
}


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every kernel, with every setting of its constants that a run can have."""
    cut = {"BLOCK": kernels.BLOCK, "PIECE": kernels.PIECE}
    for strided in (False, True):
        for size in (tl.int16, tl.int32, tl.int64):
            for flag in (False, True):
                yield "zero_masked", {"INT": size, "CHECK": flag, "STRIDED": strided, **cut}
                yield "exchange", {"INT": size, "KEEP": flag, "STRIDED": strided, **cut}
        for kind in range(4):
            how = {"KIND": kind, "STRIDED": strided, **cut}
            for shift, width in kernels.DIGITS[:2]:
                digit = {"SHIFT": shift, "WIDTH": width, "BINS": kernels.BINS}
                yield "count_digits", {**digit, "FIRST": shift == kernels.DIGITS[0][0], **how}
            yield "count_ties", how
            yield "emit_mask", how
    for size in (tl.int16, tl.int32, tl.int64):
        yield "zero_dense", {"INT": size, **cut}
    for first in (False, True):
        yield "find_digit", {"SHIFT": kernels.DIGITS[1][0], "FIRST": first, "BINS": kernels.BINS}
    yield "sum_before", {"STEP": kernels.BLOCK}


def compile_kernel(name: str, constants: dict[str, Any], target: GPUTarget) -> dict[str, Any]:
    function = getattr(kernels, name)
    signature = {a: "constexpr" if a in constants else TABLES[a] for a in function.arg_names}
    compiled = triton.compile(ASTSource(function, signature, constexprs=constants), target=target)
    shown = {key: str(value) for key, value in constants.items()}
    result: dict[str, Any] = {"kernel": name, "constants": shown}
    if target.backend == "cuda":
        ptx = compiled.asm["ptx"]
        wide = (re.search(rf"{op}\.global[.\w]*\.v[24]\.b(32|64)", ptx) for op in ("ld", "st"))
        result |= {"stack": _stack(compiled.asm["cubin"]), "wide": all(wide)}
    else:
        spills = re.findall(r"_spill_count:\s*(\d+)", compiled.asm["amdgcn"])
        result |= {"stack": sum(map(int, spills))}
    return result


def _stack(cubin: bytes) -> int:
    """Bytes of stack, from NVIDIA's tool that comes with triton."""
    tool = next(Path(triton.__file__).parent.rglob("cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    return max(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", usage.stdout)))


if __name__ == "__main__":
    kind, _, version = sys.argv[1].partition(":")
    gpu = GPUTarget(kind, version if kind == "hip" else int(version), 64 if kind == "hip" else 32)
    for kernel, constants in settings():
        print(json.dumps(compile_kernel(kernel, constants, gpu)), flush=True)
