"""One operator a file: what ``load_onnx`` computes is what ONNX Runtime computes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import onnx
from billhook.onnx import load_onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = np.float32
RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(FLOAT)


def whole(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def file_of(nodes: list[Any], x: Any, constants: dict[str, Any], opset: int, path: Path) -> Path:
    """A file whose input is x, and whose outputs are the last node's."""
    kind = TensorProto.FLOAT if x.dtype == FLOAT else TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, list(x.shape))],
        [helper.make_empty_tensor_value_info(name) for name in nodes[-1].output],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, path)
    return path


# Operator, shape of x, further inputs, attributes, opset, number of outputs.
Case = tuple[str, tuple[int, ...], list[Any], dict[str, Any], int, int]


def case(
    kind: str,
    shape: tuple[int, ...],
    *inputs: Any,
    opset: int = 18,
    outputs: int = 1,
    **attributes: Any,
) -> Case:
    return kind, shape, list(inputs), attributes, opset, outputs


MAP, VECTOR = (2, 4, 7, 6), (3, 5)
CASES = [
    *(
        case(kind, VECTOR)
        for kind in (
            *("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Erf", "Exp", "Abs", "Neg"),
            *("Elu", "LeakyRelu", "Softplus", "Floor", "Ceil", "Sin", "Cos", "Identity", "Mish"),
        )
    ),
    case("Gelu", VECTOR, opset=20),
    case("Gelu", VECTOR, opset=20, approximate="tanh"),
    case("HardSigmoid", VECTOR, alpha=1 / 6, beta=0.5),
    case("Clip", VECTOR, FLOAT(-0.5), FLOAT(0.5)),
    case("Clip", VECTOR, opset=9, min=-0.5, max=0.5),
    case("PRelu", MAP, floats(4, 1, 1)),
    *(case(kind, VECTOR, floats(5)) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(kind, VECTOR, np.array(2.0, FLOAT)) for kind in ("Add", "Sub", "Mul", "Div", "Pow")),
    case("Sum", VECTOR, floats(3, 5), floats(5)),
    case("MatMul", (2, 3, 5), floats(5, 4)),
    case("MatMul", (2, 3, 5), floats(2, 5, 4)),
    case("Gemm", VECTOR, floats(4, 5), floats(4), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", VECTOR, floats(5, 4), floats(1)),
    case("Conv", MAP, floats(6, 4, 3, 3), floats(6), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", MAP, floats(6, 2, 3, 2), group=2, pads=[0, 1, 2, 0], dilations=[2, 1]),
    case("Conv", MAP, floats(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", MAP, floats(4, 4, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", MAP, floats(4, 4, 2, 2), auto_pad="VALID"),
    case("Conv", (2, 4, 9), floats(6, 4, 3), pads=[2, 2]),
    case(
        "ConvTranspose", MAP, floats(4, 3, 3, 3), floats(6), group=2, strides=[2, 2], pads=[1] * 4
    ),
    case("ConvTranspose", (1, 4, 9), floats(4, 3, 4), strides=[2], output_padding=[1]),
    case(
        "BatchNormalization", MAP, floats(4), floats(4), floats(4), np.abs(floats(4)), epsilon=0.1
    ),
    case("LayerNormalization", VECTOR, floats(5), floats(5), epsilon=1e-3),
    case("LayerNormalization", (2, 3, 4), floats(3, 4), axis=1),
    case("InstanceNormalization", MAP, floats(4), floats(4)),
    case("GroupNormalization", MAP, floats(4), floats(4), num_groups=2, opset=21),
    case("Softmax", (2, 3, 4)),
    case("Softmax", (2, 3, 4), axis=1),
    case("Softmax", (2, 3, 4), axis=1, opset=9),
    case("LogSoftmax", (2, 3, 4), axis=-1),
    case("ReduceMean", MAP, axes=[2, 3], opset=13),
    case("ReduceMean", MAP, whole(1), keepdims=0),
    case("ReduceSum", MAP, whole(2, 3)),
    case("ReduceMax", MAP, whole(-1), opset=20),
    case("ReduceMin", MAP),
    case("ReduceL2", MAP, whole(1)),
    case("GlobalAveragePool", MAP),
    case("GlobalMaxPool", MAP),
    case("MaxPool", MAP, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    case("MaxPool", MAP, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", MAP, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("MaxPool", (2, 4, 9), kernel_shape=[3], pads=[1, 1]),
    case("AveragePool", MAP, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", MAP, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("Reshape", MAP, whole(2, -1)),
    case("Reshape", MAP, whole(0, 0, 42)),
    case("Flatten", MAP),
    case("Flatten", MAP, axis=2),
    case("Transpose", MAP, perm=[0, 2, 3, 1]),
    case("Transpose", (2, 3, 4)),
    case("Squeeze", (2, 1, 4), whole(1)),
    case("Squeeze", (2, 1, 4), axes=[1], opset=11),
    case("Unsqueeze", VECTOR, whole(0, -1)),
    case("Unsqueeze", VECTOR, axes=[1], opset=11),
    case("Concat", VECTOR, floats(3, 2), axis=1),
    case("Split", MAP, whole(1, 3), axis=1, outputs=2),
    case("Split", MAP, axis=1, outputs=2, opset=11),
    case("Slice", MAP, whole(1, 0), whole(2**31, -1), whole(2, 3), whole(2, 1)),
    case("Slice", MAP, starts=[0], ends=[2], axes=[1], opset=9),
    case("Gather", MAP, np.array(-1), axis=1),
    case("Gather", MAP, whole(2, 0), axis=1),
    case("Gather", MAP, whole(1, 2), axis=2),
    case("Expand", (2, 1, 4), whole(1, 3, 4)),
    case("Tile", VECTOR, whole(2, 1)),
    case("Pad", MAP, whole(0, 0, 1, 2, 0, 0, 3, 0), FLOAT(0.5)),
    case("Pad", MAP, whole(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"),
    case("Pad", MAP, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.0, opset=9),
    case("DepthToSpace", MAP, blocksize=2, mode="CRD"),
    case("DepthToSpace", MAP, blocksize=2),
    case("Equal", VECTOR, floats(5)),
]


@pytest.mark.parametrize("given", CASES, ids=[f"{k}-{n}" for n, (k, *_) in enumerate(CASES)])
def test_an_operator_computes_what_onnx_runtime_computes(given: Case, tmp_path: Path) -> None:
    kind, shape, inputs, attributes, opset, outputs = given
    constants = {f"c{k}": np.asarray(value) for k, value in enumerate(inputs)}
    names = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(kind, ["x", *constants], names, **attributes)
    compare(file_of([node], floats(*shape), constants, opset, tmp_path / "m.onnx"), floats(*shape))


def compare(path: Path, x: Any) -> torch.nn.Module:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})
    model = load_onnx(path)
    with torch.no_grad():
        given = model(torch.from_numpy(x))
    for ours, theirs in zip(given if isinstance(given, tuple) else (given,), wanted, strict=True):
        assert tuple(ours.shape) == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=2e-5)
    return model


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers(kind: str, direction: str, tmp_path: Path) -> None:
    both, gates = 1 + (direction == "bidirectional"), 4 if kind == "LSTM" else 3
    constants = {
        "w": floats(both, gates * 5, 3),
        "r": floats(both, gates * 5, 5),
        "b": floats(both, 2 * gates * 5),
        "h": floats(both, 2, 5),
        "c": floats(both, 2, 5),
    }
    names = ["y", "last", "cell"][: 3 if kind == "LSTM" else 2]
    inputs = ["x", "w", "r", "b", "", "h", *(["c"] if kind == "LSTM" else [])]
    more: dict[str, Any] = {} if kind == "LSTM" else {"linear_before_reset": 1}
    node = helper.make_node(kind, inputs, names, hidden_size=5, direction=direction, **more)
    x = floats(7, 2, 3)
    compare(file_of([node], x, constants, 14, tmp_path / "m.onnx"), x)


def test_scales_and_sizes_of_a_resize(tmp_path: Path) -> None:
    x = floats(1, 3, 4, 5)
    settings: list[dict[str, Any]] = [
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ]
    for each in settings:
        for name, value in (
            ("scales", np.array([1, 1, 2, 2], FLOAT)),
            ("sizes", whole(1, 3, 8, 10)),
        ):
            inputs = ["x", "", "s"] if name == "scales" else ["x", "", "", "s"]
            node = helper.make_node("Resize", inputs, ["y"], **each)
            compare(file_of([node], x, {"s": value}, 18, tmp_path / "m.onnx"), x)


def test_what_shapes_are_computed_from(tmp_path: Path) -> None:
    """Shape, Gather, Concat and their like are numbers; so the batch may vary."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["b"]),
        helper.make_node("Concat", ["b", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["y"]),
    ]
    constants = {"first": np.array(0), "axis": whole(0), "rest": whole(2, -1)}
    path = file_of(nodes, floats(3, 8), constants, 13, tmp_path / "m.onnx")
    model = compare(path, floats(3, 8))
    assert model(torch.rand(5, 8)).shape == (5, 2, 4)


@pytest.mark.parametrize("form", ["half last", "half first", "half with x"])
def test_gelu_written_out_is_one_operation(form: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["plus"]),
    ]
    if form == "half last":
        nodes += [helper.make_node("Mul", ["x", "plus"], ["p"])]
        nodes += [helper.make_node("Mul", ["p", "half"], ["y"])]
    elif form == "half first":
        nodes += [helper.make_node("Mul", ["plus", "half"], ["p"])]
        nodes += [helper.make_node("Mul", ["x", "p"], ["y"])]
    else:
        nodes += [helper.make_node("Mul", ["x", "half"], ["p"])]
        nodes += [helper.make_node("Mul", ["p", "plus"], ["y"])]
    constants = {"root": np.array(np.sqrt(2), FLOAT), "one": FLOAT(1), "half": FLOAT(0.5)}
    constants = {name: np.asarray(value) for name, value in constants.items()}
    model = compare(file_of(nodes, floats(3, 4), constants, 13, tmp_path / "m.onnx"), floats(3, 4))
    assert [step.node.kind for step in model._steps] == ["Gelu"]  # type: ignore[union-attr]


def test_attention_with_masked_rows_is_one_operation(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "k"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("IsNaN", ["weights"], ["nan"]),
        helper.make_node("Where", ["nan", "zero", "weights"], ["safe"]),
        helper.make_node("MatMul", ["safe", "v"], ["y"]),
    ]
    mask = np.zeros((4, 6), FLOAT)
    mask[1] = -np.inf
    mask[2, 3:] = -np.inf
    constants = {
        "k": floats(2, 5, 6),
        "v": floats(2, 6, 5),
        "mask": mask,
        "zero": np.zeros(1, FLOAT),
    }
    model = compare(
        file_of(nodes, floats(2, 4, 5), constants, 13, tmp_path / "m.onnx"), floats(2, 4, 5)
    )
    assert [step.node.kind for step in model._steps] == ["billhook.Attention"]  # type: ignore[union-attr]
