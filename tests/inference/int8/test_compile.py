"""``compile(precision="int8")``: what it reports, refuses, saves, and opens elsewhere."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import billhook
from billhook.errors import CompileError, ConfigurationError, FormatError
from billhook.inference import Calibration, isa, kernels
from billhook.inference.int8 import compiler, reference
from billhook.inference.int8.choices import pattern_of
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.ranges import Histogram
from billhook.models import inception_v3

from ..test_example import rewritten
from .test_network import Branches

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
SHAPE = (3, 21, 19)


def pruned() -> nn.Module:
    """A network of every operation, some of its 1x1 weights zero in blocks."""
    torch.manual_seed(0)
    model = Branches().eval()
    with torch.no_grad():
        model.first.weight[torch.rand(30, 5).repeat_interleave(4, 1) < 0.5] = 0.0
    return model


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, *SHAPE, generator=generator) for _ in range(5)]


def compiled(**settings: Any) -> billhook.CompiledModel:
    given = {"precision": "int8", "calibration": batches(), **settings}
    return billhook.compile(pruned(), batches()[0][:1], **given)


@pytest.fixture(scope="module")
def fast() -> billhook.CompiledModel:
    """A program from races whose last one, beside torch, is decided."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "race", lambda calls: {"dense": 2.0, "compiled": 1.0})
        return compiled()


def test_inception_v3_is_one_program_in_8_bits() -> None:
    torch.manual_seed(0)
    model = inception_v3(num_classes=10, depth_multiplier=0.1).eval()
    x = torch.randn(1, 3, 107, 107)
    work = compiler._Work(model, (x,), Calibration([x]), isa.best("int8"), [])
    program, _ = work._quantised()  # an UnsupportedError would make it layer by layer
    assert len(list(program.layers())) == 95  # 94 convolutions and the classifier


def test_a_compiled_network_equals_the_reference_and_reports_every_layer(
    fast: billhook.CompiledModel,
) -> None:
    x = batches()[0]
    assert isinstance(fast.program, Int8Network)
    wanted = [reference.evaluate(fast.program.program, s) for s in x.numpy()]
    np.testing.assert_array_equal(fast(x).numpy(), np.stack(wanted))
    report = fast.report()
    names = [layer.name for layer in report.layers]
    assert names == ["stem", "deep", "wide", "odd", "last", "first", "second"]
    assert {layer.precision for layer in report.layers} == {"int8"}
    assert next(layer for layer in report.layers if layer.name == "first").pattern == "1x4"
    accuracy = report.accuracy
    assert accuracy is not None
    assert accuracy.held_out
    assert accuracy.positions == 4  # one batch of five
    given, dense = fast(batches()[-1]), pruned()(batches()[-1]).detach()
    error = float((given - dense).norm() / dense.norm())
    assert accuracy.relative_error == pytest.approx(error, rel=1e-4)
    assert "held-out" in str(report)


def test_a_plan_is_replayed_with_equal_bits(fast: billhook.CompiledModel) -> None:
    plan = json.loads(json.dumps(fast.plan.to_dict()))
    assert plan["precision"] == "int8"
    for layer in plan["layers"].values():
        layer["kernel"] = "1x4"  # another kernel changes no bit
    again = compiled(plan=plan)
    assert torch.equal(again(batches()[0]), fast(batches()[0]))
    other = compiled(plan=plan, calibration=Calibration(batches(), method="mse"))
    assert not torch.equal(other(batches()[0]), fast(batches()[0]))


def other_weights(tensors: dict[str, torch.Tensor], text: dict[str, Any]) -> None:
    del text
    name = next(name for name in tensors if name.endswith(".weight"))
    tensors[name] = tensors[name].flip(0)


def test_a_file_whose_weights_were_mixed_up_is_refused(
    fast: billhook.CompiledModel, tmp_path: Path
) -> None:
    path = tmp_path / "p.billhook.safetensors"
    billhook.save(fast, path)
    opened = billhook.load_compiled(path)
    billhook.save(opened, path)  # an example too
    rewritten(path, lambda tensors, text: None)
    assert torch.equal(billhook.load_compiled(path)(batches()[0]), fast(batches()[0]))
    rewritten(path, other_weights)
    with pytest.raises(FormatError, match="other outputs on the example in its file"):
        billhook.load_compiled(path)
    rewritten(path, lambda tensors, text: text.pop("example"))  # as older files have it
    billhook.load_compiled(path)


def only(*sets: str) -> Callable[[str], tuple[str, ...]]:
    """``isa.supported`` of a processor with these sets for 8 bits."""
    fp32 = isa.supported("fp32")
    return lambda precision: sets if precision == "int8" else fp32


def test_a_file_opens_with_the_kernels_that_a_processor_has(
    fast: billhook.CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = batches()[0]
    billhook.save(fast, tmp_path / "p.billhook.safetensors")
    for name in isa.supported("int8"):
        monkeypatch.setattr(isa, "supported", only(name))
        opened = billhook.load_compiled(tmp_path / "p.billhook.safetensors")
        assert opened.plan.isa == name
        assert torch.equal(opened(x), fast(x))
        assert torch.equal(copy.deepcopy(opened)(x), fast(x))


class Sentences(nn.Module):
    """Embedded words through an LSTM to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 64)
        self.lstm = nn.LSTM(64, 300, batch_first=True)
        self.out = nn.Linear(300, 50)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(self.lstm(self.words(words))[0])
        return y


def test_layers_are_replaced_one_by_one_where_there_is_no_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sentences().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "words" not in name:
                blocks = torch.rand(len(weight), weight.shape[1] // 4) < 0.9
                weight[blocks.repeat_interleave(4, 1)] = 0.0
    words = [torch.randint(50, (1, 12)) for _ in range(3)]
    raced = billhook.compile(model, words[0], precision="int8", calibration=words)
    layers = {layer.name: layer for layer in raced.report().layers}
    assert list(layers) == ["words", "lstm", "out"]
    assert layers["lstm"].pattern == "1x4"
    kernels_of = {"lstm": {"kernel": "1x4"}, "out": {"kernel": "4x4"}}
    plan = {"version": 1, "mode": "modules", "isa": "portable", "precision": "int8"}
    fast = billhook.compile(
        model,
        words[0],
        {**plan, "layers": kernels_of},
        precision="int8",
        calibration=words,
    )
    assert fast.report().accuracy is not None
    with torch.no_grad():
        wanted = model(words[0])
    assert 0 < float((fast(words[0]) - wanted).norm()) < 0.1 * float(wanted.norm())
    billhook.save(fast, tmp_path / "words.billhook.safetensors")
    with torch.device("meta"):
        architecture = Sentences()
    for set_name in isa.supported("int8"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(isa, "supported", only(set_name, "portable"))
            opened = billhook.load_compiled(tmp_path / "words.billhook.safetensors", architecture)
            assert torch.equal(opened(words[0]), fast(words[0]))
    assert torch.equal(copy.deepcopy(fast)(words[0]), fast(words[0]))
    with pytest.raises(CompileError, match="lacks"):
        billhook.compile(
            model,
            words[0],
            {**plan, "layers": {"other": {"kernel": "1x4"}}},
            precision="int8",
            calibration=words,
        )


def test_bad_input_is_refused(fast: billhook.CompiledModel) -> None:
    model, x = pruned(), batches()[0]
    with pytest.raises(ConfigurationError, match="needs calibration data"):
        billhook.compile(model, x, precision="int8")
    with pytest.raises(ConfigurationError, match="no batches"):
        compiled(calibration=[])
    for bad, match in (
        (torch.full((1, *SHAPE), float("nan")), "NaN"),
        (torch.zeros(1, 3, 20, 19), "shape"),
        (torch.zeros(1, *SHAPE, dtype=torch.float64), "float64"),
        ("text", "is a str"),
        ((x, x), "has 2 inputs"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            compiled(calibration=[x, bad])
    with pytest.raises(ConfigurationError, match="precision='int4'"):
        billhook.compile(model, x, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="calibration= is for"):
        billhook.compile(model, x, calibration=[x])
    with pytest.raises(ConfigurationError, match="the plan is of int8"):
        billhook.compile(model, x, plan=fast.plan)
    with pytest.raises(CompileError, match="the plan is of fp32"):
        compiled(plan={"version": 1, "mode": "network", "isa": "portable", "layers": {}})
    plan = {**fast.plan.to_dict(), "precision": "fp32", "isa": "portable"}
    with pytest.raises(ConfigurationError, match="a kernel of 8 bits"):
        billhook.compile(model, x, plan=plan)
    for settings in ({"method": "median"}, {"percentile": 20.0}):
        with pytest.raises(ConfigurationError):
            Calibration([x], **settings)


def test_outputs_beyond_the_bound_are_refused_with_the_layer_that_did_it() -> None:
    with pytest.raises(CompileError, match=r"outputs change by .* of which '\w+' adds the most"):
        compiled(calibration=Calibration(batches(), bound=1e-4))


def test_patterns_are_told_from_the_zeros() -> None:
    rng = np.random.default_rng(0)
    for group in (1, 4, 8, 16):
        blocks = (
            np.kron(rng.random((4, 40)) < 0.2, np.ones((16, 1)))
            if group == 16
            else (np.kron(rng.random((64 // group, 40)) < 0.2, np.ones((group, 1))))
        )
        matrix = np.kron(blocks, np.ones((1, 4))).astype(np.int8)
        assert pattern_of(matrix) == f"{group}x4"
    assert pattern_of((rng.random((64, 160)) < 0.1).astype(np.int8)) == "unstructured"
    assert pattern_of(np.ones((64, 160), np.int8)) == "dense"


def test_ranges_hold_what_their_method_says() -> None:
    values = torch.cat([torch.randn(100_000).abs(), torch.tensor([50.0])])
    histogram = Histogram()
    histogram.widen(values)
    histogram.count(values)
    assert histogram.bounds("largest", 99.9) == (0.0, 50.0)
    low, high = histogram.bounds("percentile", 99.0)
    assert low == 0.0
    assert high == pytest.approx(float(values.quantile(0.99)), abs=0.05)
    assert 10.0 < histogram.bounds("mse", 0)[1] < 50.0


def _set(kind: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    def change(text: dict[str, Any]) -> None:
        for op in text["ops"]:
            if op["type"] == kind:
                op.update(values)

    return change


def _text(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda text: text.update(values)


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "an operation that reads itself": _set("Conv", inputs=[99]),
    "an input before the first": _set("Conv", inputs=[-7]),
    "an addend of another shape": _set("Pool", inputs=[0, -1]),
    "a wide result": _set("Conv", shape=[12, 4000, 4000]),
    "another weight": _set("Linear", weight_shape=[30, 21]),
    "a huge weight": _set("Linear", weight_shape=[2**20, 2**20]),
    "a weight of another kind": _set("Linear", weight_shape=["a", 3]),
    "no range": _set("Conv", range=None),
    "a range of nothing": _set("Conv", range=[0.0, 0]),
    "a zero beyond a byte": _set("Conv", range=[0.1, 256]),
    "a range that is not finite": _set("Conv", range=[float("nan"), 0]),
    "a joined range": _set("Concat", range=[0.123, 7]),
    "floats read as bytes": _set("Linear", range=[0.1, 0]),
    "an unknown operation": _set("Mean", type="Evil"),
    "an addend's scale": _set("Conv", addend_scale=float("inf")),
    "a stride of nothing": _set("Conv", stride=[0, 1]),
    "negative padding": _set("Conv", padding=[-5, 0, 0, 0]),
    "groups": _set("Conv", groups=5),
    "no groups": _set("Conv", groups=0),
    "another result": _text(output_shape=[2**20]),
    "another input": _text(shape=[3, 2**15, 2**15]),
    "no operations": _text(ops=[]),
    "a kernel that cannot run it": lambda text: text["plan"]["layers"].update(
        stem={"kernel": "depthwise", "vectors": 8}
    ),
    "a kernel of fp32": lambda text: text["plan"]["layers"].update(
        stem={"kernel": "spmm", "vectors": 8}
    ),
    "a layer too few": lambda text: text["plan"]["layers"].pop("stem"),
}


@pytest.fixture(scope="module")
def saved(fast: billhook.CompiledModel) -> dict[str, torch.Tensor]:
    return dict(fast.state_dict())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_refused(
    name: str, saved: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    text = json.loads(bytes(saved["program"].numpy()))
    HOSTILE[name](text)
    data = torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)
    billhook.save({**saved, "program": data}, tmp_path / "bad.billhook.safetensors")
    with pytest.raises((FormatError, ConfigurationError)):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors")


@pytest.mark.parametrize("part", ["weight", "bias", "scale"])
def test_hostile_arrays_are_refused(
    part: str, saved: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for value in (
        saved[f"0.{part}"][:-1],
        saved[f"0.{part}"].double(),
        *([torch.full_like(saved["0.scale"], float("inf"))] if part == "scale" else []),
        *([torch.full_like(saved["0.scale"], 1e30)] if part == "scale" else []),
        *([torch.full_like(saved["0.bias"], -(2**31))] if part == "bias" else []),
    ):
        billhook.save({**saved, f"0.{part}": value}, tmp_path / "bad.billhook.safetensors")
        with pytest.raises(FormatError):
            billhook.load_compiled(tmp_path / "bad.billhook.safetensors")
