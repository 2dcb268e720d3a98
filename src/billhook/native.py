"""The native kernels: one C-ABI library built from ``csrc/``, loaded once through ctypes.

Where no compiler was found at build time there is no library; ``library()`` then returns None and
every caller takes its portable path, which gives identical results.
"""

import ctypes
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import billhook

ABI_VERSION = 3
#: Instruction sets with kernels of their own, as ``csrc/isa.h`` numbers them.
ISA_NAMES = ("portable", "avx2", "avx512")
_REBUILD = "rebuild it with `make build`"
_OUT_OF_MEMORY, _OTHER_FAILURE = -1000, -1001  # as csrc/abi.h has them
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


def function(
    name: str, argtypes: Sequence[Any], restype: Any = ctypes.c_int64
) -> Callable[..., Any] | None:
    """The kernel ``name`` with its C signature set, or None without a native library.

    A call raises MemoryError when the kernel finds no memory.
    """
    kernels = library()
    if kernels is None:
        return None
    kernel = getattr(kernels, name, None)
    if kernel is None:
        raise ImportError(f"{path()} was built from older code without {name}: {_REBUILD}")
    kernel.argtypes = list(argtypes)
    kernel.restype = restype
    if restype is ctypes.c_int64:
        kernel.errcheck = _check
    return kernel  # type: ignore[no-any-return]


def _check(result: Any, kernel: Any, _: Any) -> Any:
    """The value that a kernel returned, unless it says that it failed."""
    if result == _OUT_OF_MEMORY:
        raise MemoryError(f"{kernel.__name__} could not allocate the memory that it needs")
    if result == _OTHER_FAILURE:
        raise RuntimeError(f"{kernel.__name__} failed")
    return result


def check_layout(structures: Mapping[str, type[ctypes.Structure]]) -> None:
    """Raises ImportError unless the library's structures of these names have the same fields at the
    same offsets: otherwise kernels would read the wrong memory."""
    entry = function("billhook_layout", [ctypes.c_int64, ctypes.c_void_p], ctypes.c_char_p)
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
