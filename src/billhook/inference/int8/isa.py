"""The instruction sets of the kernels in 8 bits, from the native library's table (``isa.cpp``)."""

import ctypes
import functools

from billhook import native
from billhook.errors import CompileError, ConfigurationError
from billhook.inference.plan import INT8_SETS

__all__ = ["best", "index_of", "set_for", "supported", "table"]


@functools.cache
def table() -> tuple[tuple[str, bool], ...]:
    """Every instruction set that the library knows, and whether this processor runs it."""
    name = native.function("billhook_isa_name", (ctypes.c_int64,), ctypes.c_char_p)
    runs = native.function("billhook_isa_supported", (ctypes.c_int64,))
    if name is None or runs is None:
        return ()
    rows: list[tuple[str, bool]] = []
    while (found := name(len(rows))) is not None:
        rows.append((found.decode(), bool(runs(len(rows)))))
    return tuple(rows)


def supported() -> tuple[str, ...]:
    """The sets with kernels in 8 bits that this processor runs, the fastest first."""
    runs = dict(table())
    return tuple(name for name in INT8_SETS if runs.get(name))


def best() -> str:
    """The fastest of them."""
    return supported()[0]


def set_for(wanted: str) -> str:
    """The instruction set of a plan, or this processor's fastest where it lacks that one.

    Raises:
        CompileError: There are no native kernels.
    """
    if not supported():
        raise CompileError(
            "this installation has no native kernels, which a program in 8 bits needs: "
            "reinstall billhook where there is a C++ compiler"
        )
    return wanted if wanted in supported() else best()


def index_of(name: str) -> int:
    """The row of the table, as kernels take it.

    Raises:
        ConfigurationError: This processor does not run its kernels.
    """
    if name not in supported():
        raise ConfigurationError(
            f"the instruction set {name!r} does not run here: those that do are "
            f"{', '.join(supported())}"
        )
    return [row[0] for row in table()].index(name)
