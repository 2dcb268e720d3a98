"""A changed program opened by the runtime without torch: refused, or run to an end."""

import functools
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LIBRARY", "check"]

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build/runtime/make/libbillhook.so"
LIBRARY = Path(os.environ.get("BILLHOOK_RUNTIME_LIBRARY", BUILT))
LARGEST = 2**18  # floats of inputs and outputs that are tried


@functools.cache
def _runtime() -> dict[str, Any]:
    os.environ["BILLHOOK_RUNTIME_LIBRARY"] = str(LIBRARY)
    return runpy.run_path(str(ROOT / "runtime/billhook_runtime/__init__.py"))


def check(path: Path) -> str:
    """ "refused" or "ran"; "" where ``make runtime`` has not been run."""
    if not LIBRARY.exists():
        return ""
    own = _runtime()
    try:
        opened = [own["load"](path, threads=threads) for threads in (1, 2)]
    except (own["ProgramError"], MemoryError):
        return "refused"
    ports = [*opened[0].inputs.values(), *opened[0].outputs.values()]
    if sum(int(np.prod(port.shape)) for port in ports) > LARGEST:
        return "too large to run"
    rng, inputs = np.random.default_rng(0), []
    for port in opened[0].inputs.values():
        shape = (*port.shape[: port.axis], 2, *port.shape[port.axis :])
        inputs.append((rng.random(shape, np.float32) * 4).astype(port.dtype))
    for program in opened:
        try:
            program(*inputs)
        except own["ProgramError"] as error:  # an index beyond its table
            assert any(w in str(error) for w in ("beyond the rows", "NaN or infinite"))  # noqa: PT017
    return "ran"
