"""A network plan as tensors, and back: what ``billhook.save(compiled)`` writes of a whole program.

The text lists the operations, the plan, and the steps that follow from them. The weight of
operation i is ``i.weight``, its bias ``i.bias``, and the numbers of a constant are ``i.data``. In
version 1 a weight that runs sparse was ``i.row_ptr``, ``i.column`` and ``i.value``, and there were
no steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from billhook.format.reader import Reader
from billhook.inference import graph
from billhook.inference.graph import Graph, Input, Layer, Op, Output
from billhook.inference.graph.lengths import TENSORS, Lengths
from billhook.inference.graph.maps import other
from billhook.inference.graph.soundness import check_choices, check_graph
from billhook.inference.limits import Limits, weight_floats
from billhook.inference.network.network import Network
from billhook.inference.network.steps import describe
from billhook.inference.plan import Plan
from billhook.inference.program_file import (
    CODED,
    program_text,
    read_coded,
    read_dense,
    read_sparse,
)
from billhook.inference.weights.csr import SparseWeight

__all__ = ["network_tensors", "read_lengths", "read_network"]

_KINDS: dict[str, Callable[..., Op]] = {
    **{
        kind.type_name: kind
        for kind in (
            *(graph.Conv, graph.Linear, graph.Pool, graph.Elementwise, graph.Binary),
            *(graph.Constant, graph.Rearrange, graph.Slice, graph.Pad, graph.Join),
            *(graph.LayerNorm, graph.GroupNorm, graph.Softmax, graph.Reduce, graph.Resize),
            *(graph.Matmul, graph.Attention, graph.Cast, graph.Embed, graph.Recurrent),
        )
    },
    graph.Other.type_name: other,
}

SHAPES = ("weight_shape", "tensor_shape")  # settings of operations, of tensors of the file


def network_tensors(
    network: Network, plan: Plan, example: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """The program's tensors by name."""
    tensors: dict[str, torch.Tensor] = {}
    for index, op in enumerate(network.ops):
        if isinstance(op, Layer):
            tensors |= _weight_tensors(index, op)
    network_graph = network.graph
    tensors |= {f"{index}.data": data for index, data in network_graph.constants()}
    text = program_text(
        plan,
        example,
        CODED,
        **_text(network_graph),
        run=describe(network_graph, plan.layers),
        **({} if network.lengths is None else {"longer": _bare(network.lengths)}),
    )
    return tensors | text


def _text(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": [asdict(each) for each in graph.inputs],
        "outputs": [{**asdict(each), "dtype": "F32"} for each in graph.outputs],
        "structure": graph.structure,
        "ops": [{"type": op.type_name, **_settings(op)} for op in graph.ops],
    }


def _settings(op: Op) -> dict[str, Any]:
    settings = {f.name: getattr(op, f.name) for f in fields(op) if f.name not in TENSORS}
    if isinstance(op, Layer):
        settings["weight_shape"] = list(op.weight.shape)
    if op.data is not None:
        settings["tensor_shape"] = list(op.data.shape)
    return settings


def _weight_tensors(index: int, op: Layer) -> dict[str, torch.Tensor]:
    tensors = {} if op.bias is None else {f"{index}.bias": op.bias}
    weight = op.weight.dense() if isinstance(op.weight, SparseWeight) else op.weight
    return {**tensors, f"{index}.weight": weight}


def read_network(file: Reader, plan: Plan, data: Mapping[str, Any]) -> Graph:
    """The network of a file's text and tensors.

    Raises:
        ValueError: They do not fit together.
    """
    _check_weights(file, plan, data["ops"])
    old = data["version"] == 1
    read = _read_v1 if old else read_coded
    every = [_op_v1(settings) if old else dict(settings) for settings in data["ops"]]
    ops = [_op(file, index, settings, plan, read) for index, settings in enumerate(every)]
    if "inputs" not in data:  # one of maps, and the last operation's result
        network = Graph.of_maps(ops, tuple(data["shape"]), tuple(data["ops"][-1]["shape"]))
    else:
        inputs = [Input(**_tuples(each)) for each in data["inputs"]]
        outputs = [_output(each) for each in data["outputs"]]
        network = Graph(tuple(ops), tuple(inputs), tuple(outputs), data["structure"])
    check_graph(network)
    check_choices(ops, plan.layers)
    return network


def _bare(lengths: Lengths) -> dict[str, Any]:
    """Without the shapes of weights and constants, which are those of the network itself."""
    text = _text(lengths.longer)
    ops = [{k: v for k, v in settings.items() if k not in SHAPES} for settings in text["ops"]]
    return {**text, "ops": ops, "most": lengths.most}


def read_lengths(data: Mapping[str, Any], graph: Graph) -> Lengths | None:
    """What the graphs of other lengths of a file's network follow from, if they do.

    Raises:
        ValueError: It does not fit to the network.
    """
    longer = data.get("longer")
    if longer is None:
        return None
    ops = []
    for settings in longer["ops"]:
        own = {k: v for k, v in settings.items() if k not in ("type", *SHAPES)}
        ops.append(_KINDS[settings["type"]](**_tuples(own)))
    inputs = [Input(**_tuples(each)) for each in longer["inputs"]]
    outputs = [_output(each) for each in longer["outputs"]]
    most = longer["most"]
    if type(most) is not int or most < 1:
        raise ValueError(f"sequences longer by at most {most!r}")
    lengths = Lengths(Graph(tuple(ops), tuple(inputs), tuple(outputs), longer["structure"]), most)
    check_graph(lengths.at(graph, 1))
    return lengths


def _output(settings: Mapping[str, Any]) -> Output:
    values = _tuples(settings)
    if values.pop("dtype") != "F32":
        raise ValueError("an output is not F32")
    return Output(**values)


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}


def _check_weights(file: Reader, plan: Plan, operations: list[Mapping[str, Any]]) -> None:
    """Before any is read: several operations may claim one tensor of the file."""
    shapes = [
        (tuple(settings["weight_shape"]), plan.layers[settings["name"]].kernel == "dense")
        for settings in operations
        if "weight_shape" in settings
    ]
    shapes += [(tuple(s["tensor_shape"]), True) for s in operations if "tensor_shape" in s]
    if not all(type(size) is int and size > 0 for shape, _ in shapes for size in shape or (0,)):
        raise ValueError("a weight's shape is not of whole numbers above 0")
    limits = Limits.of(file.nbytes, 0)
    limits.check("its weights", weight_floats(shapes), limits.opening)


def _read_v1(file: Reader, name: str, shape: tuple[int, ...]) -> SparseWeight:
    return read_sparse(file, name.removesuffix(".weight"), shape)


def _op_v1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An operation as version 1 had it: a vector could be called (F, 1, 1)."""
    kind = settings.get("kind", settings["type"])
    vector = kind in ("Linear", "mean", "flatten")
    return {**settings, "shape": settings["shape"][:1] if vector else settings["shape"]}


def _op(
    file: Reader,
    index: int,
    settings: dict[str, Any],
    plan: Plan,
    read: Callable[[Reader, str, tuple[int, ...]], SparseWeight],
) -> Op:
    kind = _KINDS[settings.pop("type")]
    shape, known = settings.pop("weight_shape", None), settings.pop("tensor_shape", None)
    values = _tuples(settings)
    if known is not None:
        values["tensor"] = read_dense(file, f"{index}.data", tuple(known))
    if shape is not None:
        dense = plan.layers[settings["name"]].kernel == "dense"
        reads = read_dense if dense else read
        values["weight"] = reads(file, f"{index}.weight", tuple(shape))
        bias = f"{index}.bias"
        values["bias"] = read_dense(file, bias, (shape[0],)) if bias in set(file) else None
    return kind(**values)
