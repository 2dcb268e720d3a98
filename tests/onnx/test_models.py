"""Whole models through ONNX files: out, in, compiled; and files that are refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime import quantization
from torch import nn
from typer.testing import CliRunner

import billhook
import onnx
from billhook.cli.app import app
from billhook.cli.bodies import bench
from billhook.errors import ConfigurationError, ExportError, FormatError
from billhook.inference import kernels
from billhook.onnx import export as exporting
from billhook.onnx import export_onnx, load_onnx
from billhook.torch_private import leaves
from onnx import TensorProto, helper, numpy_helper

from ..inference.zoo import small

native_only = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
SOME = ("MobileNetV3", "GRU stream", "BERT")
MORE = (
    "U-Net, bilinear",
    "ConvNeXt",
    "LSTM",
    "PTB LSTM",
    "CRNN",
    "ViT",
    "Whisper",
    "mixed",
    "audio",
)


def tensors(tree: Any) -> list[torch.Tensor]:
    return [x for x in leaves(tree) if torch.is_tensor(x)]


@native_only
@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_a_model_goes_out_and_comes_in_as_one_program(name: str, tmp_path: Path) -> None:
    model, inputs = small(name)
    path = tmp_path / "model.onnx"
    export_onnx(model, inputs, path)
    again = load_onnx(path)
    given = tuple(tensors(inputs))
    with torch.no_grad():
        wanted = tensors(model(*inputs))
        for ours, theirs in zip(tensors(again(*given)), wanted, strict=True):
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    fast = billhook.compile(path, dict(zip(again.input_names, given, strict=True)), standalone=True)
    for ours, theirs in zip(tensors(fast(*given)), wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_layers_have_the_source_s_names_and_zeros(tmp_path: Path) -> None:
    """So that they can be pruned further and looked up in reports."""
    model, inputs = small("MobileNetV3")
    export_onnx(model, inputs, tmp_path / "model.onnx")
    again = load_onnx(tmp_path / "model.onnx")
    kinds = (nn.Conv2d, nn.Linear)
    own = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    read = {name: m for name, m in again.named_modules() if isinstance(m, kinds)}
    assert set(read) == set(own)
    linear = next(name for name, m in own.items() if isinstance(m, nn.Linear))
    assert torch.equal(read[linear].weight, own[linear].weight)


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 4)).eval()


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.left = [{name: np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantised_file_has_its_weights_in_fp32(per_channel: bool, tmp_path: Path) -> None:
    plain, quantised = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    export_onnx(small_cnn(), torch.rand(1, 3, 8, 8), plain)
    name = onnxruntime.InferenceSession(plain).get_inputs()[0].name
    quantization.quantize_static(
        plain,
        quantised,
        _Batches(name),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
    )
    with pytest.warns(UserWarning, match="activations to 8 bits"):
        model = load_onnx(quantised)
    x = torch.rand(2, 3, 8, 8)
    wanted = onnxruntime.InferenceSession(quantised).run(None, {name: x.numpy()})[0]
    with torch.no_grad():
        given = model(x).numpy()
    assert np.abs(given - wanted).max() < 0.03 * np.abs(wanted).max()
    with torch.no_grad():  # its weights are rounded, those of the plain file are not
        assert not np.array_equal(given, load_onnx(plain)(x).numpy())


def write(path: Path, kind: str, constants: dict[str, Any], opset: int = 13, **more: Any) -> Path:
    domain = more.pop("domain", "")
    node = helper.make_node(kind, ["x", *constants], ["y"], domain=domain, **more)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("other", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports), path)
    return path


def test_files_that_are_refused_say_why(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(FormatError, match="is not a file"):
        load_onnx(path)
    path.write_bytes(b"\x80\x02 not onnx")
    with pytest.raises(FormatError, match="not an ONNX file"):
        load_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="not an ONNX file"):
        load_onnx(path)
    with pytest.raises(FormatError, match="Det .*not known here"):
        load_onnx(write(path, "Det", {}))
    with pytest.raises(FormatError, match="the domain 'other'"):
        load_onnx(write(path, "Relu", {}, domain="other"))
    with pytest.raises(FormatError, match=r"opset 7.*version_converter"):
        load_onnx(write(path, "Relu", {}, opset=7))
    numbers = {f"c{k}": np.array([n], np.int64) for k, n in enumerate((2, 0, 1, -1))}
    backwards, x = load_onnx(write(path, "Slice", numbers)), torch.rand(2, 3)
    with pytest.raises(FormatError, match="steps by -1"):
        backwards(x)
    relu = load_onnx(write(path, "Relu", {}))
    with pytest.raises(FormatError, match="takes x: 2 inputs"):
        relu(x, x)


def test_a_weight_that_is_computed_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["w"], ["positive"]),
        helper.make_node("Gemm", ["x", "positive"], ["y"]),
    ]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3, 3]) for n in ("x", "w")]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "graph", given, result)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(FormatError, match="a weight that is computed, 'positive'"):
        load_onnx(tmp_path / "model.onnx")


def test_an_export_that_differs_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = nn.Linear(3, 2).eval(), tmp_path / "model.onnx"
    real = exporting._export

    def another(given: nn.Module, *rest: Any) -> None:
        other = copy.deepcopy(given)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
        real(other, *rest)

    monkeypatch.setattr(exporting, "_export", another)
    with pytest.raises(ExportError, match="output 0 differs in ONNX Runtime"):
        export_onnx(model, torch.ones(1, 3), path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match=r"training mode.*model.eval\(\)"):
        export_onnx(nn.Linear(3, 2), torch.ones(1, 3), path)


def test_the_command_writes_a_file_that_bench_reads(tmp_path: Path) -> None:
    model = small_cnn()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter) < 0.1)
    billhook.save(model.state_dict(), tmp_path / "weights")
    run = CliRunner().invoke
    target, source = tmp_path / "model.onnx", f"{__name__}:small_cnn"
    given = ["--weights", str(tmp_path / "weights"), "--input", "1,3,8,8"]
    made = run(app, ["export", "onnx", source, str(target), *given])
    assert made.exit_code == 0, made.output
    assert "ONNX Runtime computes the same" in made.output
    lines = list(bench.run(str(target), "1,3,8,8", rounds=3, peers=("eager",)))
    assert "billhook" in str(lines[0])
    with pytest.raises(ConfigurationError, match="has its own weights"):
        list(bench.run(str(target), "1,3,8,8", sparsity=0.9))
