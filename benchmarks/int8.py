"""Programs in 8 bits beside what people run: ``python benchmarks/int8.py [--only NAME]``.

Every figure in docs/inference.md on 8 bits comes from here. All forms of one workload take turns in
one process; a ratio is a form's median over billhook's. The peers are dense, of the same weights
before pruning: ONNX Runtime in fp32, in int8 with static ranges (QDQ, per channel) and with dynamic
ones; OpenVINO in fp32, as it comes (on a processor with AMX that is bf16) and in int8 from the same
QDQ model; torch. They are of the extra ``bench``.

``--isa avx2`` holds billhook's programs and OpenVINO to an instruction set; ONNX Runtime has no
such switch and is left out. ``--clock cpu`` compares processor time, for a core that others use
too. Weights are random, activations those of random inputs after batch norm was settled on them:
speed only.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import billhook
from billhook.bench.memory import with_steady_memory
from billhook.inference import isa
from billhook.models import inception_v3, mobilenet_v1

#: On a core that others use as well, the processor time of a process with one thread is what its
#: wall time would be without them, but for what they displace from the caches.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FASTEST = isa.best("int8")  # of this processor, whatever the forms are held to
#: What OpenVINO's oneDNN is held to for each of ours.
ONEDNN = {
    "avx2": "AVX2",
    "avxvnni": "AVX2_VNNI",
    "avx512vnni": "AVX512_CORE_VNNI",
    "avx512vbmi": "AVX512_CORE_VNNI",
}


def pruned(matrix: torch.Tensor, pattern: str, sparsity: float) -> torch.Tensor:
    """The matrix (rows, columns) with its smallest blocks zero: "RxC" or "unstructured"."""
    rows, columns = (1, 1) if pattern == "unstructured" else map(int, pattern.split("x"))
    o, k = matrix.shape
    full = torch.zeros(-(-o // rows) * rows, -(-k // columns) * columns)
    full[:o, :k] = matrix
    blocks = full.view(len(full) // rows, rows, -1, columns)
    norms = blocks.square().sum((1, 3))
    threshold = norms.flatten().kthvalue(max(1, round(sparsity * norms.numel()))).values
    return (blocks * (norms > threshold)[:, None, :, None]).reshape(full.shape)[:o, :k]


def prune(model: nn.Module, pattern: str, sparsity: float, keep: tuple[str, ...]) -> nn.Module:
    """Every matrix and filter but those of ``keep``; blocks lie along input channels of one tap."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or any(part in name for part in keep):
                continue
            own = pattern if "classifier" not in name else "1x4"
            if weight.dim() == 2:
                weight.copy_(pruned(weight, own, sparsity))
                continue
            o, i, kh, kw = weight.shape
            flat = pruned(weight.permute(0, 2, 3, 1).reshape(o, -1), own, sparsity)
            weight.copy_(flat.view(o, kh, kw, i).permute(0, 3, 1, 2))
    return model.eval()


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Batch norms with the statistics of random inputs, so that activations are alive."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, *shape[1:]))
    return model.eval()


class Recurrent(nn.Module):
    """The outputs of an LSTM alone, so that every peer exports it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1500, 1500, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.lstm(x)[0]
        return y


class Workload:
    """A model, its input, and which of the peers run it."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        shape: tuple[int, ...],
        *,
        keep: tuple[str, ...] = (),
        dynamic: bool = False,
        rounds: int = 30,
        repeats: int = 5,
    ) -> None:
        self.make, self.shape, self.keep, self.dynamic = make, shape, keep, dynamic
        self.rounds, self.repeats = rounds, repeats

    def model(self, pattern: str, sparsity: float) -> nn.Module:
        torch.manual_seed(0)
        model = self.make().eval()
        if sparsity:
            model = prune(model, pattern, sparsity, self.keep)
        return settled(model, self.shape) if len(self.shape) == 4 else model


def feed_forward() -> nn.Module:
    return nn.Sequential(nn.Linear(768, 3072), nn.ReLU(), nn.Linear(3072, 768))


WORKLOADS = {
    "mobilenet": Workload(mobilenet_v1, (1, 3, 224, 224), keep=("stem", "depthwise")),
    "inception": Workload(inception_v3, (1, 3, 299, 299), keep=("stem.0",), rounds=10, repeats=2),
    "lstm-1500": Workload(Recurrent, (35, 1, 1500), dynamic=True, rounds=15, repeats=2),
    "linear-1500": Workload(
        lambda: nn.Sequential(nn.Linear(1500, 6000)), (1, 1500), dynamic=True, repeats=20
    ),
    "feed-forward-128": Workload(feed_forward, (128, 768), rounds=20, repeats=5),
}


def onnx_files(workload: Workload, folder: Path) -> dict[str, Path]:
    """The dense model as ONNX: "fp32", "int8" (QDQ) and, where it is common, "int8 dynamic"."""
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    x = torch.randn(workload.shape)
    fp32 = folder / "fp32.onnx"
    torch.onnx.export(workload.model("1x4", 0.0), (x,), str(fp32), dynamo=False)
    name = onnxruntime.InferenceSession(str(fp32)).get_inputs()[0].name
    files = {"fp32": fp32}
    if workload.dynamic:
        files["int8 dynamic"] = folder / "dynamic.onnx"
        quantize_dynamic(str(fp32), str(files["int8 dynamic"]), weight_type=QuantType.QInt8)
    if workload.make is Recurrent:  # static ranges of an LSTM are not what people use
        return files

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: torch.randn(workload.shape).numpy()} for _ in range(4)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quant_pre_process(str(fp32), str(folder / "prepared.onnx"))
    files["int8"] = folder / "int8.onnx"
    quantize_static(
        str(folder / "prepared.onnx"),
        str(files["int8"]),
        Batches(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return files


def peers(workload: Workload, x: torch.Tensor, folder: Path, held: bool) -> dict[str, Any]:
    """A call of each peer, by name."""
    import onnxruntime
    import openvino

    files, array = onnx_files(workload, folder), x.numpy()
    calls: dict[str, Any] = {}
    for kind, file in files.items() if not held else ():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: array}
        calls[f"ONNX Runtime {kind}"] = lambda session=session, feed=feed: session.run(None, feed)
    core = openvino.Core()
    forms = {"fp32": ("fp32", "f32"), "as it comes": ("fp32", None), "int8": ("int8", None)}
    for name, (kind, hint) in forms.items():
        if kind not in files:
            continue
        read = core.read_model(str(files[kind]))
        read.reshape({read.inputs[0]: list(x.shape)})
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if hint is not None:
            settings["INFERENCE_PRECISION_HINT"] = hint
        try:
            request = core.compile_model(read, "CPU", settings).create_infer_request()
        except RuntimeError as error:  # bf16 held to a set that has none
            print(f"OpenVINO {name} does not run: {str(error).strip().splitlines()[-1]}")
            continue
        calls[f"OpenVINO {name}"] = lambda request=request: request.infer(
            [array], share_inputs=True, share_outputs=True
        )
    return calls


def ours(
    workload: Workload, patterns: list[str], sparsity: float, x: torch.Tensor, instruction_set: str
) -> Iterator[tuple[str, Any, Any]]:
    """A call of each program in 8 bits and its report, and billhook's in fp32."""
    batches = [torch.randn(2, *x.shape[1:]) if x.dim() == 4 else x for _ in range(3)]
    for pattern in patterns:
        model = workload.model(pattern, sparsity)
        calibration = billhook.Calibration(batches, bound=1e9)  # random networks are not accurate
        program = billhook.compile(model, x, precision="int8", calibration=calibration)
        yield f"billhook int8 {pattern}", lambda p=program: p(x), program
    if instruction_set == FASTEST:
        program = billhook.compile(model, x)
        yield "billhook fp32", lambda p=program: p(x), program


def flags() -> str:
    """The processor's name and what its instruction sets have for 8 bits."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split("\t:", 1) if "\t:" in line else (line, "") for line in text.split("\n"))
    lines = {key.strip(): value.strip() for key, value in lines.items()}
    known = ("avx2", "avx_vnni", "avx512_vnni", "avx512vbmi", "avx512_fp16", "amx_int8", "amx_bf16")
    has = [flag for flag in known if flag in lines.get("flags", "").split()]
    return f"{lines.get('model name', 'unknown processor')}: {', '.join(has)}"


def noise() -> float:
    """How much the slowest tenth of some short equal loops takes beyond the fastest, as a share."""
    times = []
    for _ in range(200):
        start = time.perf_counter()
        sum(range(20_000))
        times.append(time.perf_counter() - start)
    times.sort()
    return times[180] / times[0] - 1


def timed(
    calls: dict[str, Callable[[], object]], rounds: int, repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of one call of each form in every round, sorted; all take turns.

    In each round a form first runs untimed as often as timed, in its own steady state.
    """
    times: dict[str, list[float]] = {form: [] for form in calls}
    for _ in range(rounds):
        for form, call in calls.items():
            for _ in range(repeats):
                call()
            start = clock()
            for _ in range(repeats):
                call()
            times[form].append((clock() - start) / repeats * 1e3)
    return {form: sorted(values) for form, values in times.items()}


def run(
    name: str,
    patterns: list[str],
    sparsity: float,
    *,
    instruction_set: str,
    rounds: int | None,
    clock: str,
) -> None:
    """One workload: a line for each form."""
    workload = WORKLOADS[name]
    x = torch.randn(workload.shape)
    held = instruction_set != FASTEST
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        forms = list(ours(workload, patterns, sparsity, x, instruction_set))
        calls = {form: call for form, call, _ in forms}
        calls |= peers(workload, x, Path(folder), held)
        before = noise()
        times = timed(calls, rounds or workload.rounds, workload.repeats, CLOCKS[clock])
    noisy = max(before, noise())
    print(f"\n{name}, {sparsity:.0%} zeros, noise of this core {noisy:.0%}")
    median = {form: values[len(values) // 2] for form, values in times.items()}
    best = {form: values[0] for form, values in times.items()}
    own = [form for form in times if form.startswith("billhook int8")]
    print("| form | median, ms | fastest, ms |" + "".join(f" / {form[14:]} |" for form in own))
    print("|---|---:|---:|" + "---:|" * len(own))
    for form in times:
        ratios = "".join(
            f" {median[form] / median[o]:.2f} ({best[form] / best[o]:.2f}) |" for o in own
        )
        print(f"| {form} | {median[form]:.3f} | {best[form]:.3f} |{ratios}", flush=True)
    for form, _, program in forms:
        report = program.report()
        if report.accuracy is not None:
            kernels = {f"{layer.chosen.split(',')[0]}" for layer in report.layers}
            print(f"{form}: {report.mode}, kernels {', '.join(sorted(kernels))}")
            depthwise = sum(
                layer.sparse_ms or 0.0 for layer in report.layers if "depthwise" in layer.kind
            )
            if depthwise:
                print(f"  its depthwise layers alone: {depthwise:.3f} ms")


def main(
    only: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    pattern: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    sparsity: Annotated[list[float] | None, typer.Option(help="May be repeated.")] = None,
    instruction_set: Annotated[str, typer.Option("--isa", help="Hold every form to it.")] = "",
    rounds: Annotated[int | None, typer.Option(help="Of turns.")] = None,
    *,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: the time of this process alone.")
    ] = "wall",
) -> None:
    """Runs the workloads and prints a table for each."""
    torch.set_num_threads(1)
    chosen = instruction_set or FASTEST
    if chosen != FASTEST:
        os.environ["ONEDNN_MAX_CPU_ISA"] = ONEDNN[chosen]
        isa.index_of(chosen, "int8")
        fp32 = isa.supported("fp32")
        isa.supported = lambda kind: fp32 if kind == "fp32" else (chosen, "portable")
    print(f"{flags()}; kernels {chosen}, one thread")
    for name in only or WORKLOADS:
        default = ["1x4", "8x4", "unstructured"] if WORKLOADS[name].dynamic else ["1x4", "4x4"]
        for share in sparsity or [0.9]:
            run(
                name,
                pattern or default,
                share,
                instruction_set=chosen,
                rounds=rounds,
                clock=clock,
            )


if __name__ == "__main__":
    with_steady_memory()
    typer.run(main)
