"""What opening and running a program takes without torch: ``python benchmarks/runtime.py``.

After ``make runtime-test``, on Linux. InceptionV3 with 87.5% random zeros, all its layers sparse,
is compiled and saved, or a FILE is given; then the runtime opens and runs it in its own
environment, which has numpy alone.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "build/runtime/venv/bin/python"
CHILD = """
import json, re, sys, time
begin = time.process_time()
import numpy
with_numpy = time.process_time()
import billhook_runtime
imported = time.process_time()
def resident(field):
    status = open("/proc/self/status").read()
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", status)[1])
before, memory = resident("VmRSS"), billhook_runtime.measure(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
begin_open = time.process_time()
program = billhook_runtime.load(sys.argv[1])
opened = time.process_time()
peak = resident("VmHWM") - before
x = numpy.zeros((1, *next(iter(program.inputs.values())).shape), numpy.float32)
program(x)
begin_run = time.process_time()
program(x)
print(json.dumps({
    "import numpy, ms": 1e3 * (with_numpy - begin),
    "import billhook_runtime, ms": 1e3 * (imported - with_numpy),
    "open, ms of the processor": 1e3 * (opened - begin_open),
    "one run, ms of the processor": 1e3 * (time.process_time() - begin_run),
    "peak of opening, MiB": peak / 2**20,
    "weights, MiB at most": memory["weights"] / 2**20,
    "session, MiB": memory["session"] / 2**20,
    "instructions": program.instruction_set,
}))
"""


def main() -> None:
    """Prints a line for each figure."""
    if len(sys.argv) > 1:
        report(Path(sys.argv[1]))
        return
    from start import save_inception

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.billhook.safetensors"
        save_inception(path)
        report(path)


def report(path: Path) -> None:
    """Of one file."""
    command = [PYTHON, "-c", CHILD, path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(f"file, MiB: {path.stat().st_size / 2**20:.1f}")
    for name, value in found.items():
        print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
