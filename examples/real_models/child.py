"""One form of a model in a process of its own: ``child.py KIND FILE INPUTS RUNS [MODEL]``.

Prints as JSON the milliseconds of the processor's time for opening and for the median run, and the
MiB of the process at its peak. INPUTS is an .npz file of the inputs by name, in order.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]


def eager(file: str, inputs: dict[str, Any]) -> Run:
    import torch

    torch.set_num_threads(1)
    model = torch.load(file, weights_only=False)
    given = [torch.from_numpy(x) for x in inputs.values()]
    return torch.no_grad()(lambda: model(*given))


def compiled(file: str, inputs: dict[str, Any]) -> Run:
    import torch

    import billhook

    torch.set_num_threads(1)
    model = torch.load(sys.argv[5], weights_only=False)  # on the device "meta": without weights
    program = billhook.load_compiled(file, model)
    given = [torch.from_numpy(x) for x in inputs.values()]
    return lambda: program(*given)


def runtime(file: str, inputs: dict[str, Any]) -> Run:
    import billhook_runtime

    program = billhook_runtime.load(file)
    return lambda: program(*inputs.values())


def onnxruntime(file: str, inputs: dict[str, Any]) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = dict(zip(names, inputs.values(), strict=True))
    return lambda: session.run(None, feed)


KINDS = {"eager": eager, "compiled": compiled, "runtime": runtime, "onnxruntime": onnxruntime}


def main() -> None:
    """Open, run, tell."""
    kind, file, given, runs = sys.argv[1:5]
    if kind in ("eager", "compiled"):
        import torch  # noqa: F401  (opening is timed without the import)
    inputs = dict(np.load(given))
    begin = time.process_time()
    run = KINDS[kind](file, inputs)
    opened = time.process_time() - begin
    run()
    times = []
    for _ in range(int(runs)):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    found = {
        "open": 1e3 * opened,
        "run": 1e3 * float(np.median(times)),
        "peak": int(peak[1]) / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
