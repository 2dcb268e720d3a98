"""Programs made by hand to do harm: their checksums are right, their numbers lie."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import billhook
from billhook.errors import BillhookError, ConfigurationError, FormatError
from billhook.inference import kernels
from billhook.inference.plan import Plan
from billhook.inference.program_file import sparse_tensors

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")

Operation = dict[str, Any]


def text(data: object) -> torch.Tensor:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def write(
    path: Path,
    ops: list[Operation],
    shape: list[Any],
    layers: dict[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    """A program of these operations, whatever they say."""
    plan = {"version": 1, "mode": "network", "isa": "portable", "layers": layers or {}}
    program = text({"version": 1, "plan": plan, "shape": shape, "ops": ops})
    billhook.save({**(tensors or {}), "program": program}, path, gzip=False)
    return path


def op(type: str, name: str, inputs: list[Any], shape: list[Any], **settings: Any) -> Operation:
    head = {"type": type, "name": name, "inputs": inputs, "shape": shape}
    return {**head, "activation": "none", **settings}


def pool(shape: list[int], kernel: list[int], stride: list[int], padding: list[int]) -> Operation:
    sides = {"kernel": kernel, "stride": stride, "padding": padding}
    return op("Pool", "p", [-1], shape) | {"kind": "max", **sides, "count_padding": True}


def conv(name: str, value: int, shape: list[int], weight: list[int], **settings: Any) -> Operation:
    plain = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
    return op("Conv", name, [value], shape, weight_shape=weight, **{**plain, **settings})


ONE = sparse_tensors("0", torch.ones(1, 1))
WIDE = {**ONE, "0.column": torch.zeros(1, dtype=torch.int32)}
SPMM, PACKED = {"kernel": "spmm", "vectors": 8}, {"kernel": "spmm_packed", "vectors": 8}
B = 2**64

CLAIMS: dict[str, tuple[list[Operation], list[int], dict[str, Any], dict[str, torch.Tensor]]] = {
    **{
        f"a pool: {name}": ([pool(*settings)], [1, 1, 8], {}, {})
        for name, settings in {
            "padding below 0 in 64 bits": ([1, 1, 1], [1, B], [1, 1], [0, B - 100_000]),
            "a row of 2**40": ([1, 1, 1], [1, 2**40], [1, 1], [0, 2**40 - 1]),
            "room beyond 2**63": ([1, 1, 1], [1, 2**60], [1, 2**60], [0, 2**59]),
            "a kernel of 2**31": ([1, 1, 1], [2**31, 2**30], [1, 1], [0, 0]),
            "half of a huge kernel is padding": ([1, 1, 1], [1, 2**22], [1, 1], [0, 2**21]),
            "padding above half the kernel": ([1, 1, 8], [1, 3], [1, 1], [0, 2]),
            "a shape that torch does not give": ([1, 1, 3], [1, 2], [1, 2], [0, 0]),
        }.items()
    },
    "a pool that reads each pixel a million times": (
        [pool([1, 1, 2**20 + 1], [1, 2**20], [1, 1], [0, 0])],
        [1, 1, 2**21],
        {},
        {},
    ),
    "a plane of 400 million pixels": (
        [conv("c", -1, [1, 20_001, 20_000], [1, 1, 1, 1], padding=[1, 0, 0, 0])],
        [1, 20_000, 20_000],
        {"c": SPMM},
        ONE,
    ),
    "padding that makes a plane of it": (
        [conv("c", -1, [1, 40_001, 40_008], [1, 1, 1, 1], padding=[20_000] * 4)],
        [1, 1, 8],
        {"c": SPMM},
        ONE,
    ),
    "a filter of 900 million weights": (
        [conv("c", -1, [1, 1, 1], [1, 1, 30_000, 30_000], padding=[15_000] * 3 + [14_999])],
        [1, 1, 1],
        {"c": PACKED},
        WIDE,
    ),
    "a stride of 2**20": (
        [conv("c", -1, [1, 1, 1], [1, 1, 1, 1], stride=[2**20, 2**20])],
        [1, 1, 8],
        {"c": SPMM},
        ONE,
    ),
    "a dilation of 2**64": (
        [conv("c", -1, [1, 1, 8], [1, 1, 1, 1], dilation=[B, B])],
        [1, 1, 8],
        {"c": SPMM},
        ONE,
    ),
    "rows that many operations claim": (
        [conv(f"c{i}", -1, [2**19, 1, 1], [2**19, 1, 1, 1]) for i in range(1000)],
        [1, 1, 1],
        {f"c{i}": SPMM for i in range(1000)},
        {"0.row_ptr": torch.zeros(2**19 + 1, dtype=torch.int32)},
    ),
    "1500 concatenations in each other": (
        [op("Other", f"c{i}", [i - 1], [1, 1, 8], kind="concat") for i in range(1500)],
        [1, 1, 8],
        {},
        {},
    ),
    "a million operations' inputs": (
        [op("Other", "c", [-1] * 100_000, [100_000, 1, 8], kind="concat")],
        [1, 1, 8],
        {},
        {},
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_that_nothing_in_the_file_pays_for_are_refused_soon(
    name: str, tmp_path: Path
) -> None:
    ops, shape, layers, tensors = CLAIMS[name]
    path = write(tmp_path / "p", ops, shape, layers, tensors)
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BillhookError):
        billhook.load_compiled(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300
    assert time.process_time() - begin < 30  # hours, if the claim were believed


COPY = {"sizes": [8], "from_axes": [2], "from_steps": [1], "to_axes": [2], "to_steps": [1]}
COPY |= {"start": [0, 0, 0]}
NORM = {"eps": 1e-5, "centred": True, "scaled": False, "shifted": False}
MINE: dict[str, tuple[str, list[int], Operation, Operation]] = {
    # the type, the result's shape, sound settings, and what makes them unsound
    "reads beyond": ("Rearrange", [1, 1, 8], COPY, {"start": [0, 0, 1]}),
    "reads far beyond": ("Rearrange", [1, 1, 8], COPY, {"from_steps": [2**40]}),
    "reads before": ("Rearrange", [1, 1, 8], COPY, {"start": [0, 0, -1]}),
    "writes beyond": ("Rearrange", [1, 1, 8], COPY, {"to_steps": [2]}),
    "leaves elements out": ("Rearrange", [1, 1, 8], COPY, {"sizes": [4]}),
    "an axis that is none": ("Rearrange", [1, 1, 8], COPY, {"to_axes": [3]}),
    "many dimensions": ("Rearrange", [1, 1, 8], COPY, {k: v * 9 for k, v in COPY.items()}),
    "channels beyond": ("Slice", [1, 1, 8], {"first": 0}, {"first": 1}),
    "channels before": ("Slice", [1, 1, 8], {"first": 0}, {"first": -1}),
    "a frame beyond": ("Pad", [1, 1, 9], {"before": [0, 0, 1]}, {"before": [0, 0, 2]}),
    "a frame of nothing": ("Pad", [1, 1, 9], {"before": [0, 0, 1]}, {"value": "1"}),
    "a frame of 400 digits": ("Pad", [1, 1, 9], {"before": [0, 0, 1]}, {"value": 10**400}),
    "joins along nothing": ("Join", [1, 1, 8], {"axis": 2}, {"axis": 3}),
    "no function": ("Elementwise", [1, 1, 8], {"function": "exp"}, {"function": "expm1"}),
    "parameters in words": (
        "Elementwise",
        [1, 1, 8],
        {"function": "exp"},
        {"parameters": ["a", 1]},
    ),
    "a parameter of 400 digits": (
        "Elementwise",
        [1, 1, 8],
        {"function": "exp"},
        {"parameters": [1.0, -(10**400)]},
    ),
    "one parameter": ("Elementwise", [1, 1, 8], {"function": "exp"}, {"parameters": [1.0]}),
    "a product of one": ("Elementwise", [1, 1, 8], {"function": "exp"}, {"type": "Binary"}),
    "a norm's scale": ("LayerNorm", [1, 1, 8], NORM, {"scaled": True}),
    "a norm's eps": ("LayerNorm", [1, 1, 8], NORM, {"eps": -1.0}),
    "groups": ("GroupNorm", [1, 1, 8], {**NORM, "groups": 1}, {"groups": 2}),
    "no groups": ("GroupNorm", [1, 1, 8], {**NORM, "groups": 1}, {"groups": 0}),
    "softmax of nothing": ("Softmax", [1, 1, 8], {"axis": 2}, {"axis": 3}),
    "a reduction": ("Reduce", [1, 1, 8], {"kind": "sum"}, {"kind": "median"}),
    "a huge map": ("Resize", [1, 2, 8], {"scales": [0.5, 1.0]}, {"shape": [1, 2**30, 2**20]}),
    "scales": ("Resize", [1, 2, 8], {"scales": [0.5, 1.0]}, {"scales": [1e300, -1.0]}),
    "words for numbers": ("Softmax", [1, 1, 8], {"axis": 2}, {"type": "Cast", "number": "I64"}),
}


@pytest.mark.parametrize("name", MINE)
def test_operations_are_run_as_they_say_or_refused(name: str, tmp_path: Path) -> None:
    kind, shape, sound, change = MINE[name]
    good = op(kind, "o", [-1], shape, **sound)
    program = billhook.load_compiled(write(tmp_path / "p", [good], [1, 1, 8]))
    assert program(torch.ones(2, 1, 1, 8)).shape == (2, *shape)
    with pytest.raises(FormatError):
        billhook.load_compiled(write(tmp_path / "p", [{**good, **change}], [1, 1, 8]))


@pytest.mark.parametrize("raw", [b"[" * 200_000, b'{"version": ' + b"9" * 10_000 + b"}", b"\xff{"])
def test_texts_that_are_no_json_are_refused(raw: bytes, tmp_path: Path) -> None:
    billhook.save({"program": text(raw)}, tmp_path / "p", gzip=False)
    with pytest.raises(FormatError):
        billhook.load_compiled(tmp_path / "p")


RELU = op("Other", "r", [-1], [1, 1, 8], kind="activation")


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [1.0, 1, 8]},
        {"shape": [True, 1, 8]},
        {"inputs": [-1.0]},
        {"name": 3},
        {"activation": ["relu"]},
        {"kind": "mean", "shape": [1], "activation": "relu"},  # which a mean does not apply
    ],
)
def test_settings_of_another_type_are_refused(changed: Operation, tmp_path: Path) -> None:
    path = write(tmp_path / "p", [RELU], [1, 1, 8])
    assert billhook.load_compiled(path)(torch.ones(1, 1, 1, 8)).shape == (1, 1, 1, 8)
    with pytest.raises(FormatError):
        billhook.load_compiled(write(tmp_path / "p", [{**RELU, **changed}], [1, 1, 8]))


@pytest.mark.parametrize("flag", [1, 0, "yes", None, 2.5])
def test_flags_that_are_not_booleans_are_refused(flag: object, tmp_path: Path) -> None:
    average = {**pool([1, 1, 4], [1, 2], [1, 2], [0, 0]), "kind": "average"}
    billhook.load_compiled(write(tmp_path / "p", [average], [1, 1, 8]))
    path = write(tmp_path / "p", [{**average, "count_padding": flag}], [1, 1, 8])
    with pytest.raises(FormatError):
        billhook.load_compiled(path)


def test_row_pointers_that_wrap_around_are_refused(tmp_path: Path) -> None:
    wraps = torch.tensor([0, 2**31 - 1, -(2**31), -1, 1], dtype=torch.int32)
    tensors = {**ONE, "0.row_ptr": wraps}
    path = write(
        *(tmp_path / "p", [conv("c", -1, [4, 1, 8], [4, 1, 1, 1])], [1, 1, 8]),
        *({"c": SPMM}, tensors),
    )
    with pytest.raises(FormatError, match="do not fit"):
        billhook.load_compiled(path)


def test_a_fused_layer_is_one_whatever_its_tiles_and_the_names_beside_it(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(8, 1, 3, 3, generator=generator)
    points = torch.randn(8, 8, 1, 1, generator=generator)
    shape = [8, 8, 8]
    # The first operation shares the fused layer's name, which is nothing to it.
    ops = [
        op("Other", "d", [-1], shape, kind="activation"),
        conv("d", 0, shape, [8, 1, 3, 3], groups=8, padding=[1] * 4),
        conv("p", 1, shape, [8, 8, 1, 1]),
        conv("q", 0, shape, [8, 8, 1, 1]),
        op("Other", "sum", [2, 3], shape, kind="add"),
    ]
    layers = {"d": {"kernel": "fused", "vectors": 8}, "p": PACKED, "q": PACKED}
    tensors = {
        **sparse_tensors("1", filters),
        **sparse_tensors("2", points),
        **sparse_tensors("3", points),
    }
    x = torch.randn(2, *shape, generator=generator)
    program = billhook.load_compiled(write(tmp_path / "p", ops, shape, layers, tensors))
    expected = F.conv2d(F.conv2d(x, filters, padding=1, groups=8), points) + F.conv2d(x, points)
    assert torch.allclose(program(x), expected, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": {"c": {"kernel": "spmm", "vectors": 2.5}}},
        {"layers": {"c": {"kernel": "spmm", "vectors": "8"}}},
        {"layers": {"c": {"kernel": "spmm", "vectors": True}}},
        {"layers": {"c": {"kernel": ["spmm"]}}},
        {"layers": {"c": {"kernel": "spmm", "colour": "red"}}},
        {"layers": {"c": "spmm"}},
        {"layers": [["c", "spmm"]]},
        {"layers": {3: {"kernel": "spmm"}}},
        {"mode": ["network"]},
        {"isa": None},
    ],
)
def test_a_plan_of_other_types_is_a_configuration_error(change: dict[str, Any]) -> None:
    plan = {"version": 1, "mode": "network", "isa": "portable", "layers": {}}
    with pytest.raises(ConfigurationError):
        Plan.from_dict({**plan, **change})
    with pytest.raises(ConfigurationError, match="a plan is a mapping"):
        Plan.from_dict({"version": 1})
