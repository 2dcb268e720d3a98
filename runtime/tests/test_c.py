"""The C example, whose command is the argument, beside torch's outputs: ``make runtime-test``."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from vectors import NAMES, arrays, near, path_of, run_tests

import billhook_runtime


def test_the_c_example():
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            program = billhook_runtime.load(path_of(name))
            for each, x in arrays(name, "in").items():
                axis = program.inputs[each].axis
                (Path(folder) / each).write_bytes(np.moveaxis(x, axis, 0).tobytes())
            for threads in ("1", "2"):
                run = [*sys.argv[1:], str(path_of(name)), threads, folder]
                done = subprocess.run(run, check=True, capture_output=True, text=True)
                for each, wanted in arrays(name, "out").items():
                    own = program.outputs[each]
                    raw = np.frombuffer((Path(folder) / each).read_bytes(), np.float32)
                    near(own.of_samples(raw.reshape(-1, *own.shape)), wanted)
                print("   ", name, done.stdout.strip())


if __name__ == "__main__":
    run_tests(globals())
