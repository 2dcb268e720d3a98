"""The instruction sets of the kernels, from the native library's table (``csrc/isa.cpp``)."""

import os
from typing import Literal

from billhook import native
from billhook.errors import CompileError, ConfigurationError

__all__ = [
    "MAX_ISA",
    "Precision",
    "best",
    "index_of",
    "lanes",
    "name_of",
    "names",
    "set_for",
    "supported",
]

Precision = Literal["fp32", "int8"]

#: The environment variable that holds a process to an instruction set.
MAX_ISA = "BILLHOOK_MAX_ISA"


def names(precision: Precision) -> tuple[str, ...]:
    """The sets with kernels of a precision, the preferred first; none without a native library."""
    return tuple(row.name for row in reversed(native.instruction_sets()) if getattr(row, precision))


def supported(precision: Precision) -> tuple[str, ...]:
    """Those that this processor runs, or is held to by the variable ``BILLHOOK_MAX_ISA``.

    Raises:
        ConfigurationError: The variable names none.
    """
    runs = {row.name for row in native.instruction_sets() if row.runs}
    if runs and (limit := os.environ.get(MAX_ISA)):  # none run without a library
        runs &= _up_to(limit)
    return tuple(name for name in names(precision) if name in runs)


def _up_to(limit: str) -> set[str]:
    """The sets that a processor runs which has none better than this one."""
    extends = {row.name: row.extends for row in native.instruction_sets()}
    if limit not in extends:
        raise ConfigurationError(
            f"{MAX_ISA} is {limit!r}: it can be {', '.join(extends)}, or not set"
        )
    held = {limit}
    while (limit := extends[limit]) not in held:
        held.add(limit)
    return held


def best(precision: Precision) -> str:
    """The preferred one of them.

    Raises:
        CompileError: There are no native kernels.
    """
    if not supported(precision):
        raise CompileError(
            "this installation has no native kernels, which a sparse program needs: reinstall "
            "billhook where there is a C++ compiler"
        )
    return supported(precision)[0]


def set_for(wanted: str, precision: Precision) -> str:
    """The instruction set of a plan, or this processor's best where it lacks that one.

    Raises:
        CompileError: There are no native kernels.
    """
    return wanted if wanted in supported(precision) else best(precision)


def index_of(name: str, precision: Precision) -> int:
    """The row of the table, as kernels take it.

    Raises:
        ConfigurationError: This processor does not run its kernels.
    """
    if name not in supported(precision):
        raise ConfigurationError(
            f"the instruction set {name!r} does not run here: those that do are "
            f"{', '.join(supported(precision))}"
        )
    return [row.name for row in native.instruction_sets()].index(name)


def name_of(isa: int) -> str:
    """The name of a row of the table."""
    return native.instruction_sets()[isa].name


def lanes(isa: int) -> int:
    """Floats in a vector of a row of the table."""
    return native.instruction_sets()[isa].lanes
