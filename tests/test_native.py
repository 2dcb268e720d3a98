"""The native library: that it is the one these sources need, and that its failures are errors."""

import ctypes
import itertools
import subprocess
import sys
from typing import Any

import pytest

from billhook import native
from billhook.inference import isa, kernels
from billhook.inference.int8 import bindings
from billhook.inference.weights import packing

MIRRORED = (kernels.STRUCTURES, bindings.STRUCTURES, packing.STRUCTURES)
STRUCTURES = {name: kind for own in MIRRORED for name, kind in own.items()}

compiled = pytest.mark.skipif(native.library() is None, reason="no native kernels")


@compiled
def test_the_library_has_this_abi_version() -> None:
    library = native.library()
    assert library is not None
    assert library.billhook_abi_version() == native.ABI_VERSION


@compiled
def test_the_structures_of_both_sides_are_alike() -> None:
    assert len(STRUCTURES) == sum(map(len, MIRRORED))
    native.check_layout(STRUCTURES)


def _other(structure: type[ctypes.Structure], fields: list[Any]) -> type[ctypes.Structure]:
    return type(structure.__name__, (ctypes.Structure,), {"_fields_": fields})


@compiled
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_stale_library_is_an_error(name: str) -> None:
    fields = list(STRUCTURES[name]._fields_)
    shorter = _other(STRUCTURES[name], fields[:-1])
    others = [shorter]
    for i, (first, second) in enumerate(itertools.pairwise(fields)):
        if first[1] is second[1]:  # two of one type in the other order, which a size does not tell
            swapped = [*fields[:i], second, first, *fields[i + 2 :]]
            others.append(_other(STRUCTURES[name], swapped))
    assert len(others) > 1 or name == "Blocks"
    for other in others:
        with pytest.raises(ImportError, match=f"its {name} is .* rebuild it with `make build`"):
            native.check_layout({name: other})


@compiled
def test_functions_of_an_older_library_are_errors() -> None:
    with pytest.raises(ImportError, match="its Missing is None"):
        native.check_layout({"Missing": kernels.View})
    with pytest.raises(ImportError, match="older code without billhook_of_tomorrow"):
        native.Functions({"billhook_of_tomorrow": ""}).get("billhook_of_tomorrow")
    stale = native.Functions({"billhook_isa": ""}, {"View": kernels.BlocksStruct})
    with pytest.raises(ImportError, match="its View is"):
        stale["billhook_isa"]()


def test_functions_without_a_library_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    functions = native.Functions({"billhook_isa": ""}, {"View": kernels.View})
    assert functions.get("billhook_isa") is None
    with pytest.raises(RuntimeError, match="no native library"):
        functions["billhook_isa"]


@compiled
def test_the_table_of_instruction_sets_is_the_librarys() -> None:
    table = {row.name: row for row in native.instruction_sets()}
    assert table["portable"] == native.InstructionSet("portable", "portable", True, 8, True, True)
    assert isa.name_of(kernels.isa()) == isa.supported("fp32")[0]
    for precision in ("fp32", "int8"):
        assert isa.names(precision)[-1] == isa.supported(precision)[-1] == "portable"
        assert set(isa.supported(precision)) <= set(isa.names(precision)) <= set(table)
    assert isa.set_for("of another machine", "fp32") == isa.best("fp32")


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
