"""The table on the first page of README: one network, dense and 90% sparse, under three runtimes.

    python benchmarks/readme_table.py --data ../shared/data/fashion-mnist

trains examples/own_cnn.py's network twice, unless --out has the two files already, measures both,
prints the table and writes it into README.md. Needs the extra ``bench``. Times are the fastest of
many interleaved rounds, one thread, one picture.
"""

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import torch

import billhook
from billhook.bench.memory import with_steady_memory

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- begin: benchmarks/readme_table.py -->", "<!-- end -->"
RUNTIMES = {"eager": "torch", "onnxruntime": "ONNX Runtime", "billhook": "billhook"}


def trained(example: Any, data: Any, sparsity: float | None, path: Path) -> torch.nn.Module:
    """The network from its file, or trained now."""
    if not path.exists():
        billhook.save(example.train(data, sparsity), path)
    model: torch.nn.Module = example.network().eval()
    model.load_state_dict(billhook.load(path))
    return model


def table(rows: dict[str, Any], data: str) -> str:
    """Markdown; ``rows`` are the example's outcomes by name."""
    lines = [
        "| one CNN, "
        + data
        + " | accuracy | file | "
        + " | ".join(f"{name}, ms" for name in RUNTIMES.values())
        + " |",
        "|---|---:|---:|" + "---:|" * len(RUNTIMES),
    ]
    for name, row in rows.items():
        times = (f"{row.times.best(each):.2f}" for each in RUNTIMES)
        lines.append(
            f"| {name} | {row.accuracy:.1f}% | {row.file_bytes / 1000:,.0f} kB | "
            + " | ".join(times)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write into README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Fashion-MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/readme"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--dry-run", action="store_true", help="leave README as it is")
    options = parser.parse_args()
    with_steady_memory()
    sys.path.insert(0, str(ROOT / "examples"))
    example: Any = importlib.import_module("own_cnn")
    options.out.mkdir(parents=True, exist_ok=True)
    data = example.from_folder(options.data, options.epochs)
    x, y = data.train
    data = dataclasses.replace(data, train=(x[: options.pictures], y[: options.pictures]))
    rows = {}
    for name, sparsity in (("dense", None), ("90% zeros", example.SPARSITY)):
        path = options.out / f"{'dense' if sparsity is None else 'sparse'}.safetensors"
        model = trained(example, data, sparsity, path)
        peers = tuple(each for each in RUNTIMES if each != "billhook")
        rows[name] = example.measure(model, data, options.out / "measured.safetensors", peers=peers)
    text = table(rows, "Fashion-MNIST")
    print(text)
    print(rows["90% zeros"].times.compiled.report())
    if not options.dry_run:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
