"""The native library: that it is the one these sources need, and that its failures are errors."""

import ctypes
import subprocess
import sys

import pytest

from billhook import native
from billhook.inference import kernels

compiled = pytest.mark.skipif(native.library() is None, reason="no native kernels")


@compiled
def test_the_library_has_this_abi_version() -> None:
    library = native.library()
    assert library is not None
    assert library.billhook_abi_version() == native.ABI_VERSION


@compiled
def test_the_structures_of_both_sides_are_alike() -> None:
    native.check_layout(kernels._STRUCTURES)


class Swapped(ctypes.Structure):
    """Two fields of one size in the other order, which a size does not tell."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("offset", "buffer", "plane", "pitch"))


class Shorter(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("buffer", "offset", "plane"))


@compiled
@pytest.mark.parametrize("structure", [Swapped, Shorter])
def test_a_stale_library_is_an_error(structure: type[ctypes.Structure]) -> None:
    with pytest.raises(ImportError, match="its View is .* rebuild it with `make build`"):
        native.check_layout({"View": structure})
    with pytest.raises(ImportError, match="its Missing is None"):
        native.check_layout({"Missing": structure})
    with pytest.raises(ImportError, match="older code without billhook_of_tomorrow"):
        native.function("billhook_of_tomorrow", ())


NO_MEMORY = """
import resource, torch
from billhook.inference import kernels
from billhook.inference.weights.csr import to_csr
from billhook.inference.weights.lanes import to_lanes
from billhook.inference.weights.panels import panel_rows

threads = {threads}
csr = to_csr(torch.ones(8, 16))
blocks = panel_rows(csr, 64, None, 0)
x, y = torch.zeros(1, 1).expand(10_000, 16), torch.zeros(10_000, 8)
few = torch.zeros(10, 16)
kernels.linear(blocks.struct, few, y[:10], width=64, threads=threads, isa=0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
# Columns that no panel has room for: what the kernel asks the system for is refused.
many = torch.zeros(1, 1).expand(64, 2**28)
try:
    kernels.linear(blocks.struct, many, y[:64], width=64, threads=threads, isa=0)
except MemoryError as error:
    print(error)
"""


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_that_finds_no_memory_is_an_error(threads: int) -> None:
    code = NO_MEMORY.format(threads=threads)
    command = [sys.executable, "-c", code]  # an exception that left the library would end it
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "billhook_linear could not allocate the memory that it needs\n"
