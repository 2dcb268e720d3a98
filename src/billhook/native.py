"""The native kernels: one C-ABI library built from ``csrc/``, loaded once through ctypes.

Where no compiler was found at build time there is no library; ``library()`` then returns None and
every caller takes its portable path, which gives identical results.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import billhook

ABI_VERSION = 2
#: Instruction sets with kernels of their own, as ``csrc/isa.h`` numbers them.
ISA_NAMES = ("portable", "avx2", "avx512")
_NAMES = ("libbillhook_kernels.so", "libbillhook_kernels.dylib", "billhook_kernels.dll")


def path() -> Path | None:
    """Where the library is, or None when this installation was built without a compiler."""
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
            "rebuild it with `make build`"
        )
    return loaded


def function(
    name: str, argtypes: Sequence[Any], restype: Any = ctypes.c_int64
) -> Callable[..., Any] | None:
    """The kernel ``name`` with its C signature set, or None without a native library."""
    kernels = library()
    if kernels is None:
        return None
    kernel = getattr(kernels, name)
    kernel.argtypes = list(argtypes)
    kernel.restype = restype
    return kernel  # type: ignore[no-any-return]
