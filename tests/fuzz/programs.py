"""Programs whose text and tensors were changed: refused, or run as torch runs what they say."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import billhook
from billhook.errors import BillhookError
from billhook.inference import isa

from . import runtime
from .files import File, Tensor, build, change, flip, number, parse

__all__ = [
    "anywhere",
    "change_numbers",
    "check",
    "dense_weight",
    "make",
    "seeds",
    "set_text",
    "without_example",
]

TOLERANCE = 1e-4
LARGEST = 2**18  # elements of an input that is tried
ISAS = tuple(reversed(isa.names("fp32")))
CODINGS = ("dense", ("dense", "bitmask"), ("dense", "entropy"))
KERNELS = ("dense", "spmm", "spmm_packed", "depthwise", "fused", "sparse")


class Branches(nn.Module):
    """Strides, a depthwise layer, a concatenation, a sum, pools, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.d = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.p = nn.Conv2d(4, 4, 1)
        self.s = nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        y = F.relu6(self.p(F.relu(self.d(x))))
        y = F.max_pool2d(torch.cat([x + y, y], 1), 3, 1, 1)
        y = F.avg_pool2d(self.s(y), 2, 1, count_include_pad=False)
        scores: torch.Tensor = self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return scores


def seeds(folder: Path) -> list[File]:
    """Programs of small networks, by several plans."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    maps = nn.Sequential(
        nn.Conv2d(2, 3, 3, dilation=2, bias=False), nn.MaxPool2d(2, ceil_mode=True)
    )
    plans = {
        "spmm": {"conv": "spmm", "d": "fused", "p": "spmm_packed", "linear": "sparse"},
        "packed": {"conv": "spmm_packed", "d": "depthwise", "s": "spmm", "linear": "dense"},
        "dense": {"conv": "dense", "d": "dense", "linear": "dense"},
    }
    files = []
    for model, shape in ((Branches(), (2, 7, 6)), (wide, (2, 6, 6)), (maps, (2, 9, 8))):
        for weight in model.parameters():
            weight.data *= torch.rand_like(weight) < (0.4 if weight.dim() > 1 else 1.0)
        x = torch.rand(1, *shape)
        for codings, plan in zip(CODINGS, plans.values(), strict=True):
            layers = {
                name: {
                    "kernel": plan.get(name, plan["conv" if layer.weight.dim() > 2 else "linear"])
                }
                for name, layer in model.named_modules()
                if isinstance(layer, nn.Conv2d | nn.Linear)
            }
            whole = {"version": 1, "mode": "network", "isa": "portable", "layers": layers}
            fast = billhook.compile(model.eval(), x, plan=whole)
            billhook.save(fast, folder / "seed", encoding=codings, gzip=False)
            files.append(parse((folder / "seed").read_bytes()))
            without_example(files[-1])
    return files


def without_example(file: File) -> None:
    """So that a changed program is not refused for its outputs alone: an attacker makes his own."""
    text = next(t for t in file.tensors if t.name == "program")
    program = json.loads(text.data)
    program.pop("example", None)
    set_text(text, program)


def set_text(text: Tensor, program: dict[str, Any]) -> None:
    text.data = json.dumps(program).encode()
    text.shape = [len(text.data)]
    text.record = f"dense U8 [{len(text.data)}]"


def make(rng: random.Random, files: list[File]) -> bytes:
    """The bytes of a changed program."""
    file = copy.deepcopy(rng.choice(files))
    text = next(t for t in file.tensors if t.name == "program")
    kind = rng.randrange(8)
    if kind <= 5:
        program = json.loads(text.data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _change_text(rng, program)
        set_text(text, program)
    if kind >= 5:
        tensor = rng.choice(file.tensors)
        tensor.data = (
            change_numbers(rng, tensor.data) if rng.random() < 0.8 else flip(rng, tensor.data)
        )
    if kind == 7:
        file = change(rng, file)
    return build(file, rng)


def change_numbers(rng: random.Random, data: bytes) -> bytes:
    """One number of two or four bytes is another: a column, a row's begin, or a weight."""
    width = rng.choice((2, 4))
    if len(data) < width:
        return data
    at = rng.randrange(len(data) // width) * width
    old = int.from_bytes(data[at : at + width], "little")
    new = number(rng, old)
    changed = (int(new) % 256**width if type(new) is int else 1).to_bytes(width, "little")
    return data[:at] + changed + data[at + width :]


def _change_text(rng: random.Random, program: dict[str, Any]) -> None:
    """One thing the text says is another."""
    kind = rng.randrange(12)
    if kind >= 10:
        anywhere(rng, program.get("run"))
        return
    try:
        ops, layers = program["ops"], program["plan"]["layers"]
        op, layer = rng.choice(ops), rng.choice(list(layers))
    except (LookupError, TypeError):  # gone, by an earlier change
        return
    if kind <= 3 and isinstance(op, dict):
        _change_op(rng, op, len(ops))
    elif kind == 4:
        choice = {
            "kernel": rng.choice(KERNELS),
            "vectors": rng.choice((1, 2, 3, 8, 16, number(rng))),
        }
        layers[layer] = choice
    elif kind == 5:
        program["plan"]["isa"] = rng.choice(ISAS)
    elif kind == 6:
        ops.insert(rng.randrange(len(ops) + 1), copy.deepcopy(op))
    elif kind == 7:
        ops.remove(op)
    elif kind == 8 and isinstance(program.get("shape"), list):
        program["shape"] = [*program["shape"][:2], number(rng, program["shape"][-1])]
    else:
        anywhere(rng, program)


def _change_op(rng: random.Random, op: dict[str, Any], count: int) -> None:
    if not op:
        return
    key = rng.choice(list(op))
    value = op[key]
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        value[at] = rng.randrange(-1, count) if key == "inputs" else number(rng, value[at])
        if rng.random() < 0.1:
            value.append(value[0])
    elif key == "activation":
        op[key] = rng.choice(("none", "relu", "relu6", "tanh"))
    elif key == "kind":
        op[key] = rng.choice(("max", "average", "mean", "add", "concat", "flatten", "activation"))
    elif key == "name":
        op[key] = rng.choice(("a", "d", "p", "s", "fc", "0", "1", ""))
    elif key == "type":
        op[key] = rng.choice(("Conv", "Linear", "Pool", "Other"))
    else:
        op[key] = number(rng, value)


def anywhere(rng: random.Random, value: Any) -> None:
    """Some number at any depth is another, or a part is missing."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if not isinstance(value[key], dict | list) or rng.random() < 0.1:
            if rng.random() < 0.3:
                del value[key]
            else:
                value[key] = number(rng, value[key])
            return
        value = value[key]


def check(path: Path, data: bytes) -> str:
    """ "refused" or "ran"; a program that opens must run, and as torch does, on any threads."""
    path.write_bytes(data)
    runtime.check(path)
    try:
        program = billhook.load_compiled(path)
    except BillhookError:
        return "refused"
    network: Any = program.program
    network = getattr(network, "network", network)
    shape = network.input_shape
    if torch.Size(shape).numel() > LARGEST or network.lowering.placed.size > 64 * LARGEST:
        return "too large to run"
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) - 0.4
    torch.set_num_threads(1)
    once = program(x)
    torch.set_num_threads(2)
    again = program(x)
    torch.set_num_threads(1)
    assert torch.equal(once.view(torch.int32), again.view(torch.int32)), "bits of two threads"
    assert once.shape == (2, *network.output_shape)
    expected = reference(network.ops, x).reshape(once.shape)
    if bool(expected.isfinite().all()) and float(expected.abs().max()) < 1e20:
        size = float(torch.linalg.vector_norm(expected.double()))
        distance = float(torch.linalg.vector_norm((once - expected).double()))
        assert distance <= TOLERANCE * (size + 1), f"wrong by {distance} of {size}"
    return "ran"


def reference(ops: list[Any], x: torch.Tensor) -> torch.Tensor:
    """What the operations say, by torch in fp64."""
    values = {-1: x.double()}
    for index, op in enumerate(ops):
        values[index] = _run(op, [values[i] for i in op.inputs])
    return values[len(ops) - 1].float()


def dense_weight(weight: Any) -> torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return weight.double()
    csr = weight.csr
    dense = torch.zeros(csr.shape, dtype=torch.float64)
    rows = torch.from_numpy(csr.row_ptr).diff()
    row = torch.repeat_interleave(torch.arange(csr.shape[0]), rows)
    column = torch.from_numpy(csr.column.astype("int64"))
    dense[row, column] = torch.from_numpy(csr.value).double()
    return dense.reshape(weight.shape)


def _run(op: Any, given: list[torch.Tensor]) -> torch.Tensor:
    x, kind = given[0], type(op).__name__
    if kind in ("Conv", "Linear"):
        weight = dense_weight(op.weight)
        bias = None if op.bias is None else op.bias.double()
        if kind == "Linear":
            y = F.linear(x.flatten(1), weight, bias)
        else:
            top, left, bottom, right = op.padding
            x = F.pad(x, (left, right, top, bottom))
            y = F.conv2d(x, weight, bias, op.stride, 0, op.dilation, op.groups)
    elif kind == "Pool":
        y = _pool(op, x)
    elif op.kind == "concat":
        y = torch.cat(given, 1)
    elif op.kind == "add":
        y = given[0] + given[1]
    else:
        means = {"mean": lambda: x.mean((2, 3)), "flatten": lambda: x.flatten(1)}
        y = means.get(op.kind, lambda: x)()
    clamp = {"relu": (0.0, None), "relu6": (0.0, 6.0)}.get(op.activation)
    return y if clamp is None else y.clamp(*clamp)


def _pool(op: Any, x: torch.Tensor) -> torch.Tensor:
    """Rounded up, and cut to the operation's shape where it is rounded down."""
    if op.kind == "max":
        y = F.max_pool2d(x, op.kernel, op.stride, op.padding, ceil_mode=True)
    else:
        y = F.avg_pool2d(x, op.kernel, op.stride, op.padding, True, op.count_padding)
    y = y[:, :, : op.shape[1], : op.shape[2]]
    if op.kind == "max" or not op.count_padding:
        return y
    # torch leaves what is beyond the padding out of the window's size, this pool counts it.
    top, left = op.padding
    room = [s * n + k for s, n, k in zip(op.stride, op.shape[1:], op.kernel, strict=True)]
    padded = F.pad(x, (left, room[1], top, room[0]))
    sums = F.avg_pool2d(padded, op.kernel, op.stride)
    return sums[:, :, : op.shape[1], : op.shape[2]]
