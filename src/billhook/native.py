"""The native kernels: one C-ABI library built from ``csrc/``, loaded once through ctypes.

Where no compiler was found at build time there is no library; ``library()`` then returns None and
every caller takes its portable path, which gives identical results.
"""

import ctypes
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import billhook

ABI_VERSION = 4
#: What the letters of a signature mean, as in the module struct.
_TYPES = {"P": ctypes.c_void_p, "q": ctypes.c_int64, "f": ctypes.c_float}
_REBUILD = "rebuild it with `make build`"
# As csrc/abi.h has them.
_OUT_OF_MEMORY, _OTHER_FAILURE, _OUT_OF_RANGE = -1000, -1001, -1002
_NAMES = ("libbillhook_kernels.so", "libbillhook_kernels.dylib", "billhook_kernels.dll")


def path() -> Path | None:
    """The path of the library, or None when this installation was built without a compiler."""
    # An editable install has two folders on __path__: the sources' and the built files'.
    paths = [Path(folder) / name for folder in billhook.__path__ for name in _NAMES]
    return next((each for each in paths if each.exists()), None)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels, or None when this installation was built without a compiler."""
    found = path()
    if found is None:
        return None
    import torch  # noqa: F401  its OpenMP runtime must be there first: the kernels use that pool

    loaded = ctypes.CDLL(str(found))
    version = loaded.billhook_abi_version()
    if version != ABI_VERSION:
        raise ImportError(
            f"{found} has kernel ABI version {version}, this billhook needs {ABI_VERSION}: "
            f"{_REBUILD}"
        )
    return loaded


class Functions:
    """Some of the library's functions: the one way in which billhook calls C.

    Args:
        signatures: The types of each function's arguments, in the letters of the module struct: "P"
            a pointer, "q" int64, "f" float. All return int64.
        structures: The structures that they read, by their names in ``csrc/inference/layout.cpp``;
            compared with the library's before the first call.
    """

    def __init__(
        self,
        signatures: Mapping[str, str],
        structures: Mapping[str, type[ctypes.Structure]] | None = None,
    ) -> None:
        self._signatures, self._structures = signatures, structures or {}
        self._bound: dict[str, Callable[..., int] | None] = {}

    def get(self, name: str) -> Callable[..., int] | None:
        """The function, or None without a native library.

        A call raises MemoryError when the kernel finds no memory.
        """
        if name not in self._bound:
            if not self._bound:
                check_layout(self._structures)
            bound = _function(name, self._signatures[name], ctypes.c_int64)
            if bound is not None:
                bound.errcheck = _check
            self._bound[name] = bound
        return self._bound[name]

    def __getitem__(self, name: str) -> Callable[..., int]:
        bound = self.get(name)
        if bound is None:
            raise RuntimeError("there is no native library; callers ask for it first")
        return bound


def _function(name: str, signature: str, restype: Any) -> Any:
    kernels = library()
    if kernels is None:
        return None
    bound = getattr(kernels, name, None)
    if bound is None:
        raise ImportError(f"{path()} was built from older code without {name}: {_REBUILD}")
    bound.argtypes = [_TYPES[letter] for letter in signature]
    bound.restype = restype
    return bound


def _check(result: Any, kernel: Any, _: Any) -> Any:
    """The value that a kernel returned, unless it says that it failed."""
    if result == _OUT_OF_MEMORY:
        raise MemoryError(f"{kernel.__name__} could not allocate the memory that it needs")
    if result == _OUT_OF_RANGE:
        raise IndexError("an index of the input is beyond the rows of its table (an embedding's)")
    if result == _OTHER_FAILURE:
        raise RuntimeError(f"{kernel.__name__} failed")
    return result


def check_layout(structures: Mapping[str, type[ctypes.Structure]]) -> None:
    """Raises ImportError unless the library's structures of these names have the same fields at the
    same offsets: otherwise kernels would read the wrong memory."""
    entry = _function("billhook_layout", "qP", ctypes.c_char_p)
    if entry is None:
        return
    theirs: dict[str, dict[str, int]] = {}
    offset = ctypes.c_int64()
    name = ""
    for index in itertools.count():
        found = entry(index, ctypes.byref(offset))
        if found is None:
            break
        text = found.decode()
        if text.endswith("="):
            name = text[:-1]
            theirs[name] = {}
        theirs[name][text] = offset.value
    for name, structure in structures.items():
        fields = structure._fields_
        ours = {f"{name}=": ctypes.sizeof(structure)}
        ours |= {str(field[0]): getattr(structure, str(field[0])).offset for field in fields}
        if list(ours.items()) != list(theirs.get(name, {}).items()):
            raise ImportError(
                f"{path()} was built from other sources than this billhook's: its {name} is "
                f"{theirs.get(name)}, not {ours}; {_REBUILD}"
            )


class InstructionSet(NamedTuple):
    """A row of the library's table of instruction sets, ``csrc/isa.cpp``."""

    name: str
    extends: str  # whose kernels it runs too; its own name if there is none
    runs: bool  # on this processor
    lanes: int  # floats in a vector
    fp32: bool  # it has kernels in fp32 of its own
    int8: bool  # it has kernels in 8 bits of its own


@functools.cache
def instruction_sets() -> tuple[InstructionSet, ...]:
    """The table, the preferred sets last; empty without a native library."""
    kernels = library()
    return () if kernels is None else table_of(kernels)


def table_of(kernels: ctypes.CDLL) -> tuple[InstructionSet, ...]:
    """The table of a loaded library."""
    kernels.billhook_isa_name.restype = ctypes.c_char_p
    rows: list[InstructionSet] = []
    while (name := kernels.billhook_isa_name(ctypes.c_int64(len(rows)))) is not None:
        row = ctypes.c_int64(len(rows))
        extends = kernels.billhook_isa_name(ctypes.c_int64(kernels.billhook_isa_extends(row)))
        has = kernels.billhook_isa_kernels(row)
        runs, lanes = bool(kernels.billhook_isa_supported(row)), kernels.billhook_isa_lanes(row)
        own = name.decode(), extends.decode(), runs, lanes
        rows.append(InstructionSet(*own, bool(has & 1), bool(has & 2)))
    return tuple(rows)
