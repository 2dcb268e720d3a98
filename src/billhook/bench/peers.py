"""Other ways to run a model on the CPU, to be measured beside billhook.

ONNX Runtime and OpenVINO come with the extra ``bench``; one that is not installed is left out, and
the benchmark names it.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

__all__ = ["PEERS", "missing", "peer"]

Call = Callable[[], object]
Inputs = tuple[torch.Tensor, ...]

PEERS = ("eager", "torch.compile", "onnxruntime", "openvino")
_MODULES = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def missing(name: str) -> str | None:
    """The module that a peer needs and this installation lacks."""
    needed = _MODULES.get(name, ())
    return next((module for module in needed if importlib.util.find_spec(module) is None), None)


def peer(name: str, model: nn.Module, inputs: Inputs, threads: int) -> Call:
    """The model under one of ``PEERS``, with that many threads."""
    makers: dict[str, Callable[[nn.Module, Inputs, int], Call]] = {
        "eager": _eager,
        "torch.compile": _frozen,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
    }
    return makers[name](model, inputs, threads)


def _eager(model: nn.Module, inputs: Inputs, _: int) -> Call:
    return lambda: model(*inputs)


def _frozen(model: nn.Module, inputs: Inputs, _: int) -> Call:
    """torch.compile with freezing: weights folded and repacked."""
    from torch._inductor import config

    with config.patch(freezing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model)
        compiled(*inputs)
    return lambda: compiled(*inputs)


def _onnx(model: nn.Module, inputs: Inputs) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, cast(Any, buffer), dynamo=False)
    return buffer.getvalue()


def _onnxruntime(model: nn.Module, inputs: Inputs, threads: int) -> Call:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        _onnx(model, inputs), options, providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return lambda: session.run(None, feed)


def _openvino(model: nn.Module, inputs: Inputs, threads: int) -> Call:
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    network = core.read_model(_onnx(model, inputs))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    arrays = [x.numpy() for x in inputs]
    return lambda: request.infer(arrays)
