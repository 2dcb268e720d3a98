"""Functions of one value, products and orders of channels in 8 bits: exact, wherever they run."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import billhook
from billhook.errors import FormatError
from billhook.inference import kernels
from billhook.inference.graph import Elementwise, UnsupportedError
from billhook.inference.int8 import compiler, reference
from billhook.inference.int8.calibrate import calibrate
from billhook.inference.int8.functions import applied, table_of, telling
from billhook.inference.int8.inputs import captured, maps_of
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.ops import (
    INPUT,
    Add,
    Concat,
    Flatten,
    Mean,
    Multiply,
    Op,
    Program,
    Range,
    Select,
    Table,
)
from billhook.inference.int8.quantise import quantise
from billhook.inference.int8.ranges import Calibration
from billhook.inference.kernels import FUNCTIONS
from billhook.inference.plan import Choice

from ..test_runtime import LIBRARY
from ..test_runtime import runtime as opened
from .strategies import elements
from .test_network import equal_everywhere, inputs

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
#: With a range of arguments where each is defined.
DEFINED = {"sqrt": (0.0, 9.0), "log": (0.01, 5.0), "exp": (-3.0, 2.0), "reciprocal": (0.5, 4.0)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_functions_products_and_orders_equal_the_reference(data: st.DataObject) -> None:
    program, x = data.draw(elements())
    equal_everywhere(program, {}, x)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_table_holds_the_nearest_bytes(function: str) -> None:
    """Against the function's definition in plain Python."""
    a, b = 0.25, 2.0
    low, high = DEFINED.get(function, (-5.0, 5.0))
    op = Elementwise("f", (INPUT,), (1,), function=function, parameters=(a, b))
    source, own = Range((high - low) / 255, round(-low * 255 / (high - low))), Range(0.05, 90)
    if low > 0.0:  # an argument that is always positive, whose bytes reach zero all the same
        source = Range.of(0.0, high)
    plain: dict[str, Any] = {
        "affine": lambda x: a * x + b,
        "clamp": lambda x: min(max(x, a), b),
        "leaky_relu": lambda x: x if x > 0 else a * x,
        "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
        "hardsigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
        "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
        "silu": lambda x: x / (1 + math.exp(-x)),
        "tanh": math.tanh,
        "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda x: x * (1 + math.tanh(0.7978845608 * (x + 0.044715 * x**3))) / 2,
        "exp": math.exp,
        "elu": lambda x: x if x > 0 else a * math.expm1(x),
        "abs": abs,
        "sqrt": math.sqrt,
        "reciprocal": lambda x: 1 / x if x else math.inf,
        "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
        "log": lambda x: math.log(x) if x else -math.inf,
        "equal": lambda x: float(x == a),
        "choose": lambda x: a if x != 0 else b,
    }
    table = table_of(op, source, own)
    for q in range(256):
        wanted = plain[function]((q - source.zero) * source.step) / own.step + own.zero
        assert abs(table[q] - min(max(wanted, 0), 255)) <= 0.5 + 1e-6, (function, q)


def test_a_function_that_is_not_defined_is_refused() -> None:
    root = Elementwise("root", (INPUT,), (1,), function="sqrt")
    with pytest.raises(UnsupportedError, match=r"root \(sqrt\) is not defined"):
        table_of(root, Range(0.1, 3), Range(0.1, 0))


@pytest.mark.parametrize(
    "function", ["hardswish", "hardsigmoid", "sigmoid", "gelu", "silu", "tanh"]
)
def test_what_lies_beyond_the_telling_part_has_the_same_bytes(function: str) -> None:
    op = Elementwise("f", (INPUT,), (1,), function=function)
    x = np.linspace(-12, 9, 4001)
    y = applied(op, torch.from_numpy(x)).numpy()
    own = Range.of(float(y.min()), float(y.max()))
    low, high = telling(op, (-12.0, 9.0), own)
    assert -12 < low < high <= 9
    wanted = np.rint(y / own.step + own.zero)
    source = Range.of(low, high)
    table = table_of(op, source, own)
    q = np.rint(x / source.step + source.zero).clip(0, 255).astype(int)
    ends = (x < low) | (x > high)
    assert (np.abs(table[q] - wanted)[ends] <= 1).all()
    assert ends.any()
    assert source.step < 21 / 255


class Excited(nn.Module):
    """Squeeze-and-excitation, functions of every place, shuffled and split channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 14, 1)
        self.deep = nn.Conv2d(14, 14, 3, 1, 1, groups=14)
        self.down, self.up = nn.Conv2d(14, 6, 1), nn.Conv2d(6, 14, 1)
        self.left, self.right = nn.Conv2d(7, 9, 1), nn.Conv2d(7, 9, (3, 1), padding=(1, 0))
        self.first, self.second = nn.Linear(18, 30), nn.Linear(60, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.stem(x))
        x = F.silu(self.deep(F.gelu(self.wide(x))))
        x = x * self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = x.unflatten(1, (2, 7)).transpose(1, 2).flatten(1, 2)
        left, right = x.chunk(2, 1)
        x = torch.cat([F.hardtanh(self.left(left), -1, 1), self.right(right).tanh()], 1)
        x = F.hardswish(self.first(x.mean((2, 3))))
        y: torch.Tensor = self.second(torch.cat([x, F.leaky_relu(x)], 1))
        return y


class FeedForward(nn.Module):
    """A gate beside GELU, on each row of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(24, 70), nn.Linear(24, 70), nn.Linear(70, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(F.gelu(self.first(x)) * F.silu(self.gate(x)))
        return y


def in_8_bits(model: nn.Module, x: torch.Tensor) -> Program:
    with torch.no_grad():
        graph, takes = captured(model, x)
        ranges = calibrate(graph.ops, [maps_of(x, takes)], Calibration([]))
        return quantise(graph, ranges, takes)


@pytest.mark.parametrize("kind", ["maps", "rows"])
def test_a_model_with_functions_is_one_program_and_near_fp32(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "race", lambda calls: {"dense": 2.0, "compiled": 1.0})
    torch.manual_seed(0)
    model = Excited().eval() if kind == "maps" else FeedForward().eval()
    x = torch.randn(8, 3, 21, 19) if kind == "maps" else torch.randn(40, 24)
    with torch.no_grad():
        wanted = model(x)
    small = billhook.compile(model, x, precision="int8", calibration=[x, x])
    assert small.plan.mode == "network"
    given = small(x)
    assert (given - wanted).norm() < 0.05 * wanted.norm()
    program = in_8_bits(model, x)
    assert {Table, Multiply} <= {type(op) for op in program.ops}
    maps = maps_of(x, program.takes).numpy()
    exact = np.stack([reference.evaluate(program, each) for each in maps])
    other = Int8Network(program, {op.name: Choice("1x4") for _, op in program.layers()}, "portable")
    np.testing.assert_array_equal(
        other(x).numpy(), exact if kind == "maps" else exact[0].reshape(24, -1).T
    )
    billhook.save(small, tmp_path / "small.billhook.safetensors")
    assert torch.equal(billhook.load_compiled(tmp_path / "small.billhook.safetensors")(x), given)


def hostile() -> dict[str, Program]:
    """Programs whose tables, indices and factors are not sound."""
    own, shape = Range(0.1, 7), (6, 2, 3)
    table = Table("f", (INPUT,), shape, own, np.arange(256, dtype=np.uint8))
    order = Select("s", (INPUT,), shape, own, np.arange(6, dtype=np.int32))
    sound: dict[str, Op] = {
        "short": replace(table, table=np.zeros(255, np.uint8)),
        "long": replace(table, table=np.zeros(257, np.uint8)),
        "signed": replace(table, table=np.zeros(256, np.int8)),
        "beyond": replace(order, index=np.array([0, 1, 2, 3, 4, 6], np.int32)),
        "before": replace(order, index=np.array([0, 1, 2, 3, 4, -1], np.int32)),
        "fewer": replace(order, index=np.arange(5, dtype=np.int32)),
        "floats": replace(order, index=np.zeros(6, np.float32)),
        "factor": Multiply("m", (INPUT, INPUT), shape, Range(1e-9, 0)),
    }
    return {name: Program(shape, shape, own, (op,)) for name, op in sound.items()}


@pytest.mark.parametrize("name", list(hostile()))
def test_a_file_with_unsound_tables_is_refused(name: str, tmp_path: Path) -> None:
    from .test_runtime import saved

    path = tmp_path / "program"
    saved(hostile()[name], path, random.Random(0))
    with pytest.raises(FormatError):
        billhook.load_compiled(path)
    if LIBRARY.exists():
        own = opened()
        with pytest.raises(own["ProgramError"]):
            own["load"](path)


def test_vectors_join_with_ranges_of_their_own() -> None:
    shape, rng = (7, 3, 5), np.random.default_rng(0)
    own, other = Range(0.03, 100), Range(0.02, 30)
    ops = (
        Mean("mean", (INPUT,), (7,), own),
        Flatten("flat", (INPUT,), (105,), own),
        Concat("joined", (1, 0), (112,), own),
        Add("narrow", (2,), (112,), other),
        Select("one pixel", (3,), (9, 1, 1), other, rng.integers(0, 112, 9).astype(np.int32)),
    )
    program = Program(shape, (9,), own, ops)
    equal_everywhere(replace(program, output_shape=(9, 1, 1)), {}, inputs(rng, 3, shape))
