"""Twenty networks at 90% zeros beside ONNX Runtime: ``python benchmarks/zoo.py [--only NAME]``.

One thread, batch 1, fp32, each network as ``billhook.compile`` makes it and as one program
(``standalone=True``), in turn with eager torch and ONNX Runtime; medians of the rounds. The ratio
is ONNX Runtime's time to the faster of our two.
docs/inference.md has the table. Needs the extras ``bench`` and ``transformers``.
"""

import gc
from typing import Annotated, Any

import torch
import typer
from torch import nn

import billhook
from billhook.bench.measure import bench
from billhook.bench.memory import with_steady_memory
from billhook.errors import CompileError
from zoo_networks import NETWORKS

FORMS = ("eager", "onnxruntime", "billhook", "one program")


class Plain(nn.Module):
    """The first output tensor of a model alone, so that every peer exports it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs: Any = self.model(*inputs)
        return outputs if torch.is_tensor(outputs) else outputs[0]  # type: ignore[no-any-return]


def prune(model: nn.Module, sparsity: float) -> nn.Module:
    """Zeros at random places; depthwise and first convolutions stay dense, as in the paper."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and weight.shape[1] > 3:
                kept = max(1, round((1 - sparsity) * weight.numel()))
                order = torch.rand_like(weight).flatten()
                weight.mul_((order >= order.topk(kept).values[-1]).view_as(weight))
    return model.eval()


def measure(name: str, sparsity: float, rounds: int) -> str:
    torch.manual_seed(0)
    made, inputs = NETWORKS[name]()
    model = prune(Plain(made), sparsity)
    forms: dict[str, Any] = {}
    with torch.no_grad():
        default = billhook.compile(model, inputs)
        try:
            one = billhook.compile(model, inputs, standalone=True)
            forms["one program"] = lambda: one(*inputs)
        except CompileError as error:
            print(f"{name}: {error}")
    result = bench(
        name, default, inputs, rounds=rounds, peers=[], extra=forms | peers(model, inputs)
    )
    times = {form: result.median(form) for form in result.times}
    ours = min(times["billhook"], times.get("one program", times["billhook"]))
    columns = (times[form] if form in times else float("nan") for form in FORMS)
    cells = " | ".join(f"{ms:.2f}" for ms in columns)
    gain = times["onnxruntime"] / ours if "onnxruntime" in times else float("nan")
    return f"| {name} | {default.plan.mode} | {cells} | {gain:.2f} |"


def peers(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    from billhook.bench.peers import peer

    calls: dict[str, Any] = {}
    for name in ("eager", "onnxruntime"):
        try:
            calls[name] = peer(name, model, inputs, 1)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    return calls


def main(
    sparsity: Annotated[float, typer.Option(help="The share of zeros.")] = 0.9,
    only: Annotated[str, typer.Option(help="Networks whose name contains this.")] = "",
    rounds: Annotated[int, typer.Option(help="Rounds in which the forms take turns.")] = 15,
) -> None:
    with_steady_memory()
    torch.set_num_threads(1)
    columns = ("network", "compiled as", *(f"{form} ms" for form in FORMS), "ratio")
    print("| " + " | ".join(columns) + " |")
    print("|---|---|" + "---:|" * (len(FORMS) + 1))
    for name in NETWORKS:
        if only.lower() in name.lower():
            print(measure(name, sparsity, rounds), flush=True)
            gc.collect()


if __name__ == "__main__":
    typer.run(main)
