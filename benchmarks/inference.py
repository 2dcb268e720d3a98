"""Sparse inference beside dense: ``python benchmarks/inference.py [--sparsity 0.9] [--only NAME]``.

``--weights FILE --width 0.5 --pixels 96`` measures trained masks beside random ones.
Every figure in docs/inference.md comes from here. Forms of one workload take turns; the median and
the fastest round of each are printed, with their ratios to ours.
ONNX Runtime and OpenVINO are measured where the extra ``bench`` is installed, and torchao where it
is; a form that does not run is named with its reason. ``--isa avx2`` holds every form that can be.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.nn import functional as F
from torch.utils import mkldnn

import billhook
from billhook.bench.held import with_held
from billhook.bench.measure import Result, bench, layer_table, measure_limits
from billhook.bench.memory import with_steady_memory
from billhook.bench.peers import PEERS
from billhook.models import inception_v3, mobilenet_v1

Shape = tuple[int, ...]
# MobileNetV1's 1x1 layers at 224 pixels: input channels, output channels, side, how often.
POINTWISE = (
    (32, 64, 112, 1),
    (64, 128, 56, 1),
    (128, 128, 56, 1),
    (128, 256, 28, 1),
    (256, 256, 28, 1),
    (256, 512, 14, 1),
    (512, 512, 14, 5),
    (512, 1024, 7, 1),
    (1024, 1024, 7, 1),
)
DENSE_NAMES = ("stem.weight", "depthwise")  # what the paper does not prune in MobileNetV1


def prune(
    model: nn.Module, sparsity: float, uneven: bool, keep: Shape | tuple[str, ...] = ()
) -> nn.Module:
    """Zeros at random places; ``uneven``: rows differ in density (log-normal, sigma 0.7), as
    trained ones do.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or any(part in name for part in keep):
                continue
            score = torch.rand_like(weight)
            if uneven:
                score *= torch.exp(0.7 * torch.randn(len(weight), *[1] * (weight.dim() - 1)))
            kept = max(1, round((1 - sparsity) * weight.numel()))
            weight.mul_(score >= score.flatten().topk(kept).values[-1])
    return model.eval()


def trained(file: Path, width: float) -> nn.Module:
    """MobileNetV1 with the weights of a file, as ``billhook train mobilenet_v1`` writes it."""
    weights = billhook.load(file)
    model = mobilenet_v1(width, num_classes=len(weights["classifier.weight"]))
    model.load_state_dict(weights)
    return model.eval()


def shuffled(model: nn.Module) -> nn.Module:
    """A copy with each weight's values in random order: the same zeros, evenly spread."""
    model = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                order = torch.randperm(weight.numel())
                weight.copy_(weight.flatten()[order].view_as(weight))
    return model


class Recurrent(nn.Module):
    """The outputs of an LSTM alone, so that every peer exports it."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(units, units, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.lstm(x)[0]
        return y


class Alone(nn.Module):
    """One layer in a model of its own, which module replacement compiles."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y


def pointwise(threads: int, sparsity: float, uneven: bool, rounds: int) -> None:
    """All of MobileNetV1's 1x1 layers against the best dense form torch has for each."""
    ours = best = 0.0
    for inputs, outputs, side, count in POINTWISE:
        conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        model = prune(nn.Sequential(conv), sparsity, uneven)
        x = torch.rand(1, inputs, side, side)
        last = x.contiguous(memory_format=torch.channels_last)
        w_last = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        flat, matrix = x.reshape(inputs, -1), conv.weight.detach().flatten(1)
        repacked, opaque = mkldnn.to_mkldnn(copy.deepcopy(model)), x.to_mkldnn()
        forms: dict[str, Callable[[], object]] = {
            "channels last": lambda last=last, w=w_last: F.conv2d(last, w),
            "matrix product": lambda m=matrix, f=flat: m @ f,
            "repacked": lambda r=repacked, o=opaque: r(o),
        }
        name = f"1x1 {inputs}->{outputs} at {side}x{side}"
        result = bench(
            name,
            model,
            (x,),
            threads=threads,
            rounds=rounds,
            repeats=10,
            peers=["eager"],
            extra=forms,
        )
        dense = min(result.best(form) for form in result.times if form != "billhook")
        ours, best = ours + count * result.best("billhook"), best + count * dense
        print(result, flush=True)
    print(
        f"all 1x1 layers, best rounds: {ours:.3f} ms, {best / ours:.2f} times the best dense form"
    )


Workload = Callable[[float, bool], tuple[nn.Module, Shape]]


def _mobilenet(sparsity: float, uneven: bool) -> tuple[nn.Module, Shape]:
    return prune(mobilenet_v1(), sparsity, uneven, DENSE_NAMES), (1, 3, 224, 224)


def _inception(sparsity: float, uneven: bool) -> tuple[nn.Module, Shape]:
    return prune(inception_v3(), 0.875 if sparsity == 0.9 else sparsity, uneven), (1, 3, 299, 299)


def _linear(batch: int) -> Workload:
    return lambda s, uneven: (prune(Alone(nn.Linear(1500, 6000)), s, uneven), (batch, 1500))


def _lstm(units: int, batch: int) -> Workload:
    return lambda s, uneven: (prune(Recurrent(units), s, uneven), (35, batch, units))


#: torch.compile unrolls the steps of an LSTM, which takes it minutes.
RECURRENT = tuple(name for name in PEERS if not name.startswith("torch"))
# Model, peers, rounds, and timed calls in a row a round.
WORKLOADS: dict[str, tuple[Workload, tuple[str, ...], int, int]] = {
    "mobilenet": (_mobilenet, PEERS, 15, 3),
    "inception": (_inception, PEERS, 7, 2),
    "linear-1": (_linear(1), PEERS, 21, 10),
    "linear-16": (_linear(16), PEERS, 11, 5),
    "lstm-650": (_lstm(650, 1), RECURRENT, 7, 2),
    "lstm-1500": (_lstm(1500, 1), RECURRENT, 5, 1),
    "lstm-1500-20": (_lstm(1500, 20), RECURRENT, 3, 1),
}


def run(name: str, threads: int, sparsity: float, uneven: bool) -> Result:
    """One workload beside its peers; at 50% beside torch alone."""
    make, peers, rounds, repeats = WORKLOADS[name]
    model, shape = make(sparsity, uneven)
    used = ("eager",) if sparsity == 0.5 else peers
    return bench(
        name,
        model,
        (torch.rand(shape),),
        threads=threads,
        rounds=rounds,
        repeats=repeats,
        peers=used,
    )


def run_trained(file: Path, width: float, pixels: int, threads: int) -> None:
    """A trained file beside its peers, and the same zeros at random places."""
    model, x = trained(file, width), torch.rand(1, 3, pixels, pixels)
    for name, form in (("trained masks", model), ("random masks", shuffled(model))):
        title = f"{name}, width {width}, {pixels} pixels"
        result = bench(title, form, (x,), threads=threads, repeats=3)
        print(result, flush=True)
        print(layer_table(result.compiled.report().layers, measure_limits()), flush=True)


def main(
    sparsity: Annotated[list[float] | None, typer.Option(help="May be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    uneven: Annotated[bool, typer.Option(help="Rows of unequal density.")] = False,
    layers: Annotated[bool, typer.Option(help="Every layer beside the machine's limits.")] = False,
    *,
    weights: Annotated[
        Path | None, typer.Option(help="Instead: MobileNetV1 as trained, and with random masks.")
    ] = None,
    isa: Annotated[str, typer.Option(help="Hold every form to it, such as avx2.")] = "",
    width: Annotated[float, typer.Option(help="Of the file's MobileNetV1.")] = 1.0,
    pixels: Annotated[int, typer.Option(help="Of its images.")] = 224,
) -> None:
    """Runs the workloads and prints ratios."""
    with_held(isa)
    if weights is not None:
        for count in threads or [1, 2]:
            run_trained(weights, width, pixels, count)
        return
    limits = measure_limits() if layers else None
    for share in sparsity or [0.9]:
        for count in threads or [1, 2]:
            print(f"{share:.1%} zeros, {'uneven' if uneven else 'even'} rows", flush=True)
            for name in only or ["pointwise", *WORKLOADS]:
                if name == "pointwise":
                    pointwise(count, share, uneven, 15)
                    continue
                result = run(name, count, share, uneven)
                print(result, flush=True)
                if limits is not None:
                    print(layer_table(result.compiled.report().layers, limits), flush=True)


if __name__ == "__main__":
    with_steady_memory()
    typer.run(main)
