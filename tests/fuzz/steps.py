"""Placed steps that were changed, opened by the runtime without torch alone: refused, or run.

Nothing here loads a program by Python, so that thousands of files a minute reach the checks of
``csrc/runtime/steps_*.cpp``. What opens is run on one and on two threads; under the sanitizers
whatever it touches beyond its buffers ends the process.
"""

import copy
import json
import random
from pathlib import Path
from typing import Any

from . import programs, runtime
from .files import File, Tensor, build, number, parse

__all__ = ["check", "make", "seeds"]

OPS = (
    *("copy", "spmm", "max_pool", "average_pool", "mean", "add", "linear", "depthwise", "fill"),
    *("rearrange", "pointwise", "binary", "normalise", "softmax", "reduce", "matmul", "attention"),
    *("embed", "cast", "resize", "lstm", "gru"),
    *("quantise", "dequantise", "conv", "flatten", "quantise_vector"),
)
FUNCTIONS = (
    *("affine", "gelu", "log", "choose", "add", "div", "masked_fill", "rdiv", "I64", "I32", "BOOL"),
    *("across_channels", "across_rows", "within_row", "mean", "sum", "max", "min", "all", "causal"),
    *("centres", "corners", "warp"),
)
SETTINGS = (
    *("channels", "in_height", "in_width", "height", "width", "kernel_height", "kernel_width"),
    *("stride_height", "stride_width", "pad_top", "pad_left", "count_padding", "dims", "pixels"),
    *("vectors", "packed", "first_column", "size", "from", "to", "parameters", "keep", "taps"),
    *("x", "y", "addend", "extra", "mask", "weight", "bias", "activation", "fill", "function"),
    *("first", "window", "gather", "lines", "relu", "by_sample", "scale", "addend_scale", "shift"),
    *("kernel", "groups", "factors"),
)


VECTORS = Path(__file__).parents[2] / "runtime/tests/vectors"


def seeds(folder: Path) -> list[File]:
    """The programs of the other fuzzer, and the runtime's in 8 bits."""
    files = [VECTORS / f"{name}.billhook.safetensors" for name in ("bytes", "rows")]
    return [*programs.seeds(folder), *(parse(file.read_bytes()) for file in files)]


def make(rng: random.Random, files: list[File]) -> bytes:
    """The bytes of a program with some steps changed, the rest as it was."""
    file = copy.deepcopy(rng.choice(files))
    text = next(t for t in file.tensors if t.name == "program")
    program = json.loads(text.data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(rng, program)
    programs.set_text(text, program)
    if rng.random() < 0.1:
        _change_shape(rng, rng.choice(file.tensors))
    return build(file)


def _change(rng: random.Random, program: dict[str, Any]) -> None:
    run, kind = program["run"], rng.randrange(16)
    steps = run.get("steps")
    if not isinstance(steps, list) or not steps or type(run.get("workspace")) is not int:
        return  # gone, by an earlier change
    if kind == 0:
        programs.anywhere(rng, run)
    elif kind == 1:
        port = rng.choice([*program["inputs"], *program["outputs"]])
        port["dtype"] = rng.choice(("F32", "I64", "I32", "BOOL"))
    elif kind == 2:
        port = rng.choice([*program["inputs"], *program["outputs"]])
        port["shape"] = [max(1, side + rng.choice((-1, 0, 1, 8))) for side in port["shape"]]
    elif kind == 3:
        run["workspace"] = max(0, run["workspace"] + rng.choice((-64, -16, -1, 1, 1024)))
    elif kind == 4:
        steps.insert(rng.randrange(len(steps) + 1), copy.deepcopy(rng.choice(steps)))
    elif kind == 5:
        del steps[rng.randrange(len(steps))]
    elif kind == 6:
        program["plan"]["isa"] = rng.choice(programs.ISAS)
    elif kind == 7:
        run["at_once"] = rng.choice((1, 2, 128, 129, 4096))
    else:
        _change_step(rng, rng.choice(steps), rng.choice(steps))


def _change_step(rng: random.Random, step: Any, other: Any) -> None:
    """One setting is another number, gone, new, or that of another step."""
    if not isinstance(step, dict) or not isinstance(other, dict) or not step or not other:
        return  # gone, by an earlier change
    key, kind = rng.choice(list(step)), rng.randrange(12)
    if kind == 0:
        step["op"] = rng.choice(OPS)
    elif kind == 1:
        step["function"] = rng.choice(FUNCTIONS)
    elif kind == 2:
        taken = rng.choice(list(other))
        step[taken] = copy.deepcopy(other[taken])
    elif kind == 3:
        del step[key]
    elif kind == 4:
        name = rng.choice(SETTINGS)
        step[name] = _near(rng, 1)
    else:
        step[key] = _nearly(rng, step[key])


def _nearly(rng: random.Random, value: Any) -> Any:
    """The same with one number changed."""
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [_nearly(rng, each) if i == at else each for i, each in enumerate(value)]
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: _nearly(rng, value[key])}
    if type(value) is float:
        return rng.choice((-value, 0.0, 1e300, 1e-300, -1.5, float("inf"), float("-inf")))
    return _near(rng, value) if type(value) is int else number(rng, value)


def _near(rng: random.Random, value: int) -> Any:
    """Mostly a number that another sound program might have there."""
    if rng.random() < 0.2:
        return number(rng, value)
    return max(0, rng.choice((value - 1, value + 1, value * 2, value // 2, value + 8, 0, 1, 2, 3)))


def _change_shape(rng: random.Random, tensor: Tensor) -> None:
    """Two sides of a tensor's shape change places."""
    parts = (tensor.record or "").split(" ")
    if len(parts) < 3 or not parts[2].startswith("["):
        return
    sides = parts[2][1:-1].split(",")
    rng.shuffle(sides)
    tensor.record = " ".join([*parts[:2], f"[{','.join(sides)}]", *parts[3:]])
    if tensor.entry == tensor.name:
        tensor.shape = [int(side) for side in sides if side]


def check(path: Path, data: bytes) -> str:
    """ "refused" or "ran"."""
    path.write_bytes(data)
    return runtime.check(path)
