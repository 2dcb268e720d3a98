"""Run the tests of decoders and inference with the sanitized kernels: `make sanitize`.

A read or write outside a buffer, or undefined behaviour, ends the process with a report. The
buffers are numpy's, which the preloaded AddressSanitizer allocates.
"""

import ctypes
import sys

import pytest

from billhook import native

TESTS = [
    "tests/backends/test_native.py",
    "tests/format/test_hostile.py",
    "tests/format/test_kernels.py",
    "tests/inference/test_linear_kernels.py",
    "tests/inference/int8/test_layers.py",
    "tests/inference/int8/test_network.py",
    "tests/inference/test_layers.py",
    "tests/inference/test_lstm.py",
    "tests/inference/test_network_kernels.py",
]


def main(library: str) -> int:
    """Replace the native library by the one at ``library`` and run the tests."""
    sanitized = ctypes.CDLL(library)
    native.library = lambda: sanitized  # type: ignore[assignment]
    return pytest.main([*TESTS, "-x", "-p", "no:cacheprovider", "-p", "no:xdist"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
