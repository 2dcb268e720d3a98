"""Other ways to run a model on the CPU, to be measured beside billhook's program in fp32.

All but billhook in 8 bits are dense.

ONNX Runtime and OpenVINO come with the extra ``bench``, torchao is a package of its own. A form
that is not installed, or that does not run the model, is left out, and the benchmark says why.
"""

import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import billhook
from billhook.bench.held import obstacle
from billhook.errors import ConfigurationError

__all__ = ["PEERS", "peer", "quantised_onnx", "reason"]

Call = Callable[[], object]
Inputs = tuple[torch.Tensor, ...]
Batches = Sequence[Inputs]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def peer(name: str, model: nn.Module, inputs: Inputs, threads: int, batches: Batches = ()) -> Call:
    """The model under one of ``PEERS``, with that many threads.

    Args:
        name: of the form.
        model: in evaluation mode.
        inputs: what it is timed on.
        threads: for each call.
        batches: inputs from which forms with static ranges find them; ``inputs`` unless given.

    Raises:
        ConfigurationError: the form is not installed, cannot be held to an instruction set that
            was asked for, or does not run such a model.
    """
    modules, make = _FORMS[name]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigurationError(f"{module} is not installed")
    if why := obstacle(name):
        raise ConfigurationError(why)
    return make(model, inputs, threads, batches or [inputs])


def reason(error: Exception) -> str:
    """The first line of why a form did not run, with its kind where the library is not billhook."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {first}"


def _eager(model: nn.Module, inputs: Inputs, _: int, __: Batches) -> Call:
    return lambda: model(*inputs)


def _compiled(model: nn.Module, inputs: Inputs, _: int, __: Batches) -> Call:
    """torch.compile with freezing: weights folded and repacked."""
    from torch._inductor import config

    with config.patch(freezing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model)
        compiled(*inputs)
    return lambda: compiled(*inputs)


def _compiled_bf16(model: nn.Module, inputs: Inputs, threads: int, batches: Batches) -> Call:
    """The same under autocast to bf16."""

    def forward(*x: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(*x)

    return _compiled(cast(nn.Module, forward), inputs, threads, batches)


def _billhook_int8(model: nn.Module, inputs: Inputs, _: int, batches: Batches) -> Call:
    """Speed only: whatever the outputs lose is accepted."""
    given = [batch if len(batch) > 1 else batch[0] for batch in batches]
    calibration = billhook.Calibration(given, bound=float("inf"))
    program = billhook.compile(model, inputs, precision="int8", calibration=calibration)
    return lambda: program(*inputs)


def _torchao(model: nn.Module, inputs: Inputs, threads: int, batches: Batches) -> Call:
    """torchao's quantisation of the exported graph for x86, static, through torch.compile."""
    _no_recurrence(model, "torch.export unrolls their steps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pt2e: Any = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
        x86: Any = importlib.import_module(
            "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"
        )
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        graph = torch.export.export(model, inputs).module()
        prepared = pt2e.prepare_pt2e(graph, quantizer)
        for batch in batches:
            for row in _rows(batch, inputs):
                prepared(*row)
        return _compiled(pt2e.convert_pt2e(prepared), inputs, threads, batches)


def _onnx(model: nn.Module, inputs: Inputs, _: Batches = ()) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, cast(Any, buffer), dynamo=False)
    return buffer.getvalue()


def quantised_onnx(model: nn.Module, inputs: Inputs, batches: Batches) -> bytes:
    """The ONNX model in 8 bits: QDQ, static ranges, a scale for each output channel."""
    _no_recurrence(model, "static ranges of an LSTM are not what people use")
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    prepare: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    plain = _onnx(model, inputs)
    names = _input_names(plain)
    feeds = (
        {name: x.numpy() for name, x in zip(names, row, strict=True)}
        for batch in batches
        for row in _rows(batch, inputs)
    )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        fp32, prepared, int8 = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        fp32.write_bytes(plain)
        prepare.quant_pre_process(str(fp32), str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(int8),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        return int8.read_bytes()


def _dynamic(model: nn.Module, inputs: Inputs, _: Batches) -> bytes:
    """The ONNX model with weights in 8 bits and ranges found in each call."""
    if any(isinstance(module, _CONVOLUTIONS) for module in model.modules()):
        raise ConfigurationError("dynamic ranges are for linear and recurrent layers")
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        fp32.write_bytes(_onnx(model, inputs))
        kind = quantization.QuantType.QInt8
        quantization.quantize_dynamic(str(fp32), str(int8), weight_type=kind)
        return int8.read_bytes()


_Write = Callable[[nn.Module, Inputs, Batches], bytes]


def _onnxruntime(
    write: _Write, model: nn.Module, inputs: Inputs, threads: int, batches: Batches
) -> Call:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(
        write(model, inputs, batches), options, providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return lambda: session.run(None, feed)


def _openvino(
    form: tuple[_Write, str | None],
    model: nn.Module,
    inputs: Inputs,
    threads: int,
    batches: Batches,
) -> Call:
    write, hint = form
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    network = core.read_model(write(model, inputs, batches))
    network.reshape(
        {x.any_name: list(y.shape) for x, y in zip(network.inputs, inputs, strict=True)}
    )
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if hint is not None:
        settings["INFERENCE_PRECISION_HINT"] = hint
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    arrays = [x.numpy() for x in inputs]
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)


def _no_recurrence(model: nn.Module, why: str) -> None:
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        raise ConfigurationError(f"the model has recurrent layers: {why}")


def _rows(batch: Inputs, inputs: Inputs) -> list[Inputs]:
    """A batch in parts of the size of the example, whose shapes an exported model has."""
    size = len(inputs[0])
    count = len(batch[0]) // size
    return [tuple(x[i * size : (i + 1) * size] for x in batch) for i in range(count)]


def _input_names(onnx: bytes) -> list[str]:
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return [node.name for node in session.get_inputs()]


_ORT, _OPENVINO = ("onnx", "onnxruntime"), ("onnx", "openvino")
_Maker = Callable[[nn.Module, Inputs, int, Batches], Call]
_FORMS: dict[str, tuple[tuple[str, ...], _Maker]] = {
    "billhook int8": ((), _billhook_int8),
    "eager": ((), _eager),
    "torch.compile": ((), _compiled),
    "torch.compile bf16": ((), _compiled_bf16),
    "torchao int8": (("torchao",), _torchao),
    "onnxruntime": (_ORT, partial(_onnxruntime, _onnx)),
    "onnxruntime int8": (_ORT, partial(_onnxruntime, quantised_onnx)),
    "onnxruntime int8 dynamic": (_ORT, partial(_onnxruntime, _dynamic)),
    "openvino": (_OPENVINO, partial(_openvino, (_onnx, "f32"))),
    "openvino as it comes": (_OPENVINO, partial(_openvino, (_onnx, None))),
    "openvino int8": ((*_OPENVINO, "onnxruntime"), partial(_openvino, (quantised_onnx, None))),
}

#: Every form. "As it comes" is bf16 on a processor with AMX, fp32 elsewhere.
PEERS = tuple(_FORMS)
