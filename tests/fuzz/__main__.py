"""Fuzz by the clock or by the number: ``make fuzz`` and ``python -m tests.fuzz --help``.

Every changed file is refused by an error of billhook's own, or read right; anything else is a bug.
File number i of a seed is always the same one. What fails is kept, with its number in its name.
"""

import argparse
import collections
import ctypes
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from billhook import native

from . import coded, layers, programs, steps

KINDS: dict[str, ModuleType] = {
    "coded": coded,
    "programs": programs,
    "layers": layers,
    "steps": steps,
}
MEMORY = 4 << 30  # beyond which an allocation fails: nothing here needs a hundredth of it
SECONDS = 60  # for one file, after which the process ends


def main() -> int:
    """Run, print the counts, and return 1 if something failed."""
    options = _options()
    warnings.simplefilter("ignore")
    if options.library:
        sanitized = ctypes.CDLL(options.library)
        native.library = lambda: sanitized  # type: ignore[assignment]
    else:  # AddressSanitizer reserves terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    module = KINDS[options.kind]
    begin, bugs = time.monotonic(), 0
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="billhook-fuzz-") as name:
        folder = Path(name)
        seeds = module.seeds(folder)
        number = options.first
        while number < options.first + options.count and time.monotonic() - begin < options.seconds:
            data = module.make(random.Random(f"{options.seed}/{number}"), seeds)
            signal.alarm(SECONDS)
            problem = _problem(module.check, folder / "file", data, counts)
            if problem is not None:
                bugs += 1
                kept = options.keep / f"{options.kind}-{options.seed}-{number}"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(data)
                print(f"{kept}\n{problem}", flush=True)
            number += 1
            if number % 10_000 == 0:
                print(f"{number}: {dict(counts)}, {bugs} bugs", flush=True)
        signal.alarm(0)
    spent = time.monotonic() - begin
    print(
        f"{sum(counts.values()) + bugs:,} files of {options.kind}, seed {options.seed!r}, in ",
        end="",
    )
    print(f"{spent:,.0f} s: {dict(counts)}, {bugs} bugs")
    return int(bugs > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=sys.maxsize, help="how many files")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long at most")
    parser.add_argument("--seed", default="0", help="a text; another one makes other files")
    parser.add_argument("--first", type=int, default=0, help="the number of the first file")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where bugs are kept")
    parser.add_argument("--library", help="a native library to use instead, as `make sanitize`'s")
    return parser.parse_args()


def _problem(
    check: Callable[[Path, bytes], str],
    path: Path,
    data: bytes,
    counts: collections.Counter[str],
) -> str | None:
    """What is wrong, if anything; otherwise what came of the file is counted."""
    try:
        counts[check(path, data)] += 1
    except Exception:  # whatever it is, it is not an error of billhook's
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    sys.exit(main())
