"""``billhook --version``: the version, and which kernels this installation runs on this machine."""

import ctypes
import importlib.util
import sys
from pathlib import Path

import billhook

__all__ = ["version_text"]


def version_text() -> str:
    """Two lines; torch is not imported, only its thread pool's library is opened.

    >>> print(version_text())  # doctest: +ELLIPSIS
    billhook ...
    native kernels: ...
    """
    return f"billhook {billhook.__version__}\nnative kernels: {_kernels()}"


def _kernels() -> str:
    from billhook import native

    path = native.path()
    if path is None:
        return (
            "absent, the slower portable path is in use: install a C++ compiler, then reinstall "
            "billhook"
        )
    _open_thread_pool()
    table = native.table_of(ctypes.CDLL(str(path)))
    sets = ", ".join(row.name for row in table if row.runs)
    threads = "threads from torch's pool" if _has_threads() else "one thread (no OpenMP found)"
    return f"in use ({sets}), {threads}"


def _open_thread_pool() -> None:
    """Load the OpenMP runtime that torch brings, as importing torch would."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    dependencies = Path(spec.origin).parent / "lib" / "libtorch_global_deps.so"
    if dependencies.exists():
        ctypes.CDLL(str(dependencies), mode=ctypes.RTLD_GLOBAL)


def _has_threads() -> bool:
    """Whether the kernels' weak symbol of an OpenMP runtime finds one; see csrc/parallel.h."""
    return sys.platform != "win32" and hasattr(ctypes.CDLL(None), "GOMP_parallel")
