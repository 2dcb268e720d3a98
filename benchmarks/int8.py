"""Programs in 8 bits beside what people run: ``python benchmarks/int8.py [--only NAME]``.

Every figure in docs/inference.md on 8 bits comes from here. All forms of one workload take turns in
one process; a ratio is a form's median over billhook's. The peers are dense, of the same weights
before pruning: ONNX Runtime in fp32, in int8 with static ranges (QDQ, per channel) and with dynamic
ones; OpenVINO in fp32, as it comes (on a processor with AMX that is bf16) and in int8 from the same
QDQ model; torch.compile in fp32 and bf16, and torchao's int8. They are of the extra ``bench``, but
for torchao; ``--form`` picks some of them.

``--isa avx2`` holds all of them to an instruction set but ONNX Runtime, which has no such switch
and is left out where the processor has more. ``--clock cpu`` compares processor time, for a core
that others use too. Weights are random, activations those of random inputs after batch norm was
settled on them: speed only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import billhook
from billhook.bench.held import with_held
from billhook.bench.memory import with_steady_memory
from billhook.bench.peers import PEERS, peer, quantised_onnx, reason
from billhook.inference import isa
from billhook.inference.race import interleaved_times
from billhook.models import inception_v3, mobilenet_v1

#: On a core that others use as well, the processor time of a process with one thread is what its
#: wall time would be without them, but for what they displace from the caches.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DENSE = tuple(name for name in PEERS if not name.startswith("billhook"))


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


def peers(workload: Workload, x: torch.Tensor, forms: Sequence[str]) -> dict[str, Any]:
    """A call of each of the dense forms, by name."""
    batches = [(torch.randn(workload.shape),) for _ in range(4)]
    model, calls = workload.model("1x4", 0.0), {}
    for name in forms:
        try:
            calls[name] = peer(name, model, (x,), 1, batches)
            calls[name]()
        except Exception as error:  # not installed, does not run the model, cannot be held
            calls.pop(name, None)
            print(f"{name} is left out: {reason(error)}")
    return calls


def depthwise_of_openvino(workload: Workload, x: torch.Tensor) -> float:
    """Milliseconds of OpenVINO's depthwise layers in 8 bits by its own profile: of each layer the
    least of 30 calls."""
    import openvino

    batches = [(torch.randn(workload.shape),) for _ in range(2)]
    core = openvino.Core()
    read = core.read_model(quantised_onnx(workload.model("1x4", 0.0), (x,), batches))
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERF_COUNT": True}
    request = core.compile_model(read, "CPU", settings).create_infer_request()
    least: dict[str, float] = {}
    for _ in range(30):
        request.infer([x.numpy()])
        for layer in request.profiling_info:
            if layer.node_type == "GroupConvolution" or "_dw" in layer.exec_type:
                spent = layer.real_time.total_seconds() * 1e3
                least[layer.node_name] = min(spent, least.get(layer.node_name, spent))
    print(f"  OpenVINO int8: {len(least)} depthwise layers")
    return sum(least.values())


def ours(
    workload: Workload, patterns: list[str], sparsity: float, x: torch.Tensor
) -> Iterator[tuple[str, Any, Any]]:
    """A call of each program in 8 bits and its report, and billhook's in fp32."""
    batches = [torch.randn(2, *x.shape[1:]) if x.dim() == 4 else x for _ in range(3)]
    for pattern in patterns:
        model = workload.model(pattern, sparsity)
        calibration = billhook.Calibration(batches, bound=1e9)  # random networks are not accurate
        program = billhook.compile(model, x, precision="int8", calibration=calibration)
        yield f"billhook int8 {pattern}", lambda p=program: p(x), program
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


def run(
    name: str,
    patterns: list[str],
    sparsity: float,
    *,
    forms: Sequence[str],
    rounds: int | None,
    clock: str,
) -> None:
    """One workload: a line for each form."""
    workload = WORKLOADS[name]
    x = torch.randn(workload.shape)
    with torch.no_grad():
        own_forms = list(ours(workload, patterns, sparsity, x))
        calls = {form: call for form, call, _ in own_forms} | peers(workload, x, forms)
        before = noise()
        turns = rounds or workload.rounds
        times = interleaved_times(calls, turns, workload.repeats, CLOCKS[clock])
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
    for form, _, program in own_forms:
        report = program.report()
        if report.accuracy is not None:
            kernels = {f"{layer.chosen.split(',')[0]}" for layer in report.layers}
            print(f"{form}: {report.mode}, kernels {', '.join(sorted(kernels))}")
            depthwise = sum(
                layer.sparse_ms or 0.0 for layer in report.layers if "depthwise" in layer.kind
            )
            if depthwise:
                print(f"  its depthwise layers alone: {depthwise:.3f} ms")
    if name == "mobilenet" and "openvino int8" in calls:
        print(
            f"OpenVINO int8's depthwise layers alone: {depthwise_of_openvino(workload, x):.3f} ms"
        )


def main(
    only: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    pattern: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    sparsity: Annotated[list[float] | None, typer.Option(help="May be repeated.")] = None,
    instruction_set: Annotated[str, typer.Option("--isa", help="Hold every form to it.")] = "",
    rounds: Annotated[int | None, typer.Option(help="Of turns.")] = None,
    *,
    form: Annotated[
        list[str] | None, typer.Option(help="Of the peers; all unless given. May be repeated.")
    ] = None,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: the time of this process alone.")
    ] = "wall",
) -> None:
    """Runs the workloads and prints a table for each."""
    with_held(instruction_set)
    torch.set_num_threads(1)
    print(f"{flags()}; kernels {isa.best('int8')}, one thread")
    for name in only or WORKLOADS:
        default = ["1x4", "8x4" if WORKLOADS[name].dynamic else "4x4", "unstructured"]
        for share in sparsity or [0.9]:
            run(
                name,
                pattern or default,
                share,
                forms=form or DENSE,
                rounds=rounds,
                clock=clock,
            )


if __name__ == "__main__":
    with_steady_memory()
    typer.run(main)
