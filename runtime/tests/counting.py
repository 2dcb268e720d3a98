"""Runs allocate nothing: ``LD_PRELOAD=counting.so counting.py``, in ``make runtime-test``.

Each vector is run on one and on three threads; counting.c counts what is allocated meanwhile. A
first run is not counted: the loader makes a thread's variables when it first reads one.
"""

import ctypes
import time

import numpy as np
from vectors import NAMES, arrays, path_of

import billhook_runtime

counting = ctypes.CDLL(None)  # which has been preloaded
run = ctypes.cast(billhook_runtime._billhook.billhook_run, ctypes.c_void_p)
counting.counted_run.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t]


def allocations(name, threads):
    """What running a vector's samples allocates."""
    program = billhook_runtime.load(path_of(name), threads=threads)
    given = program._given((), arrays(name, "in"))
    samples = len(next(iter(given.values())))
    made = [np.empty((samples, *own.shape), np.float32) for own in program.outputs.values()]
    inputs, outputs = (billhook_runtime._pointers(each) for each in (given.values(), made))
    session = program._take()
    counting.counted_run(run, session, inputs, outputs, samples)
    time.sleep(0.05)  # a thread that has just been made reads its own
    count = counting.counted_run(run, session, inputs, outputs, samples)
    program._give(session)
    return count


def main():
    """Prints the count of each, and fails unless all are 0."""
    counts = {name: [allocations(name, threads) for threads in (1, 3)] for name in NAMES}
    print("allocated by runs on one and three threads:", counts)
    assert all(count == [0, 0] for count in counts.values())


if __name__ == "__main__":
    main()
