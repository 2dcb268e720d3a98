"""An allocator that does not disturb what is timed."""

import os
import sys

__all__ = ["STEADY_MALLOC", "with_steady_memory"]

#: Without these variables the C library returns every large tensor's memory to the system and gets
#: it back page by page: whoever allocates less looks faster than it is.
STEADY_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}


def with_steady_memory() -> None:
    """Starts this process anew with an allocator that keeps its memory, if it does not yet."""
    if any(os.environ.get(name) != value for name, value in STEADY_MALLOC.items()):
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **STEADY_MALLOC})
