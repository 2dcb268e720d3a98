"""The forms of a model that are compared: files, what runs them, and what that takes."""

import copy
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from task import Task
from torch import Tensor, nn

import billhook

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "runtime"
CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True)
class Form:
    """A row of the table: a file, its quality, and the kinds of processes that run it."""

    name: str
    file: Path
    quality: float
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """All forms of a task, and where its inputs and its model without weights are."""

    forms: list[Form]
    inputs: Path
    skeleton: Path


def make(task: Task, pruned: nn.Module, folder: Path) -> Made:
    """Every form, saved and judged."""
    inputs, skeleton = folder / "inputs.npz", folder / "skeleton.pt"
    torch.save(copy.deepcopy(pruned).to("meta"), skeleton)
    fp32 = billhook.compile(pruned, task.example, standalone=True)
    billhook.save(fp32, folder / "fp32.billhook.safetensors")
    names = [each.name for each in fp32.program.graph.inputs]
    np.savez(inputs, **{name: x.numpy() for name, x in zip(names, task.example, strict=True)})
    batches = list(zip(*(x.split(16) for x in task.calibration), strict=True))
    int8 = billhook.compile(pruned, task.example, precision="int8", calibration=batches)
    billhook.save(int8, folder / "int8.billhook.safetensors")
    torch.save(task.model, folder / "dense.pt")
    export(task, folder / "dense.onnx")
    quantise(task, folder / "dense.onnx", folder / "int8.onnx")
    whole = ("compiled", "runtime", "c")
    network = int8.plan.mode == "network"  # the runtime takes no replaced layers
    forms = [
        ("torch", "dense.pt", task.model, ("eager",)),
        ("ONNX Runtime", "dense.onnx", session(folder / "dense.onnx"), ("onnxruntime",)),
        ("ONNX Runtime int8", "int8.onnx", session(folder / "int8.onnx"), ("onnxruntime",)),
        ("billhook", "fp32.billhook.safetensors", fp32, whole),
        ("billhook int8", "int8.billhook.safetensors", int8, whole if network else whole[:1]),
    ]
    with torch.no_grad():
        return Made(
            [Form(name, folder / file, task.judge(run), kinds) for name, file, run, kinds in forms],
            inputs,
            skeleton,
        )


def export(task: Task, path: Path) -> None:
    """The dense model as ONNX, for any batch size."""
    names = [f"input{index}" for index in range(len(task.example))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            task.model,
            task.example,
            str(path),
            input_names=names,
            output_names=["output"],
            dynamic_axes={name: {0: "samples"} for name in [*names, "output"]},
            dynamo=False,
        )


def quantise(task: Task, source: Path, target: Path) -> None:
    """By ONNX Runtime: with measured ranges if the model has convolutions, else while it runs."""
    from onnxruntime import quantization as q

    if not any(isinstance(each, nn.Conv2d) for each in task.model.modules()):
        q.quantize_dynamic(source, target, per_channel=True, reduce_range=True)
        return
    arrays = iter([{"input0": part.numpy()} for part in task.calibration[0].split(16)])

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(arrays, None)

    q.quantize_static(source, target, Reader(), per_channel=True, reduce_range=True)


def session(path: Path) -> Callable[..., Any]:
    """ONNX Runtime as a function."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in opened.get_inputs()]

    def run(*inputs: Tensor) -> Any:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(opened.run(None, feed)[0])

    return run


def measure(made: Made, form: Form, kind: str, runs: int) -> dict[str, float]:
    """Milliseconds to open and to run one sample, MiB at the peak: of one process of its own."""
    if kind == "c":
        command = [str(BUILT / "time"), str(form.file), str(runs)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = dict(line.split() for line in shown.splitlines())
        peak = float(found["peak_kb"]) / 1024
        return {"open": float(found["open_ms"]), "run": float(found["median_ms"]), "peak": peak}
    paths = [str(ROOT / "runtime"), str(CHILD.parent), *filter(None, sys.path)]  # of packages too
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "BILLHOOK_RUNTIME_LIBRARY": str(BUILT / "make"),
    }
    command = [sys.executable, str(CHILD), kind, str(form.file), str(made.inputs), str(runs)]
    ran = subprocess.run(
        [*command, str(made.skeleton)], check=True, capture_output=True, text=True, env=environment
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def in_turns(made: Made, rounds: int, runs: int) -> dict[tuple[str, str], dict[str, float]]:
    """The medians of several rounds in which all forms take turns."""
    pairs = [(form, kind) for form in made.forms for kind in form.kinds]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for form, kind in pairs:
            found.setdefault((form.name, kind), []).append(measure(made, form, kind, runs))
    return {
        key: {what: statistics.median(each[what] for each in all_) for what in all_[0]}
        for key, all_ in found.items()
    }


def difference(made: Made, pruned: nn.Module, folder: Path) -> dict[str, float]:
    """How far the outputs of the program from C and from Python without torch are from torch's."""
    (form,) = (each for each in made.forms if each.name == "billhook")
    inputs = dict(np.load(made.inputs))
    with torch.no_grad():
        wanted = pruned(*(torch.from_numpy(x) for x in inputs.values())).numpy()
    for name, x in inputs.items():
        (folder / name).write_bytes(x.tobytes())
    subprocess.run([str(BUILT / "example"), str(form.file), "1", str(folder)], check=True)
    os.environ["BILLHOOK_RUNTIME_LIBRARY"] = str(BUILT / "make")
    sys.path.append(str(ROOT / "runtime"))
    import billhook_runtime

    given = {
        "C": np.fromfile(folder / "y0", np.float32).reshape(wanted.shape),
        "billhook_runtime": billhook_runtime.load(form.file)(**inputs),
    }
    size = np.linalg.norm(wanted)
    return {name: float(np.linalg.norm(y - wanted) / size) for name, y in given.items()}
