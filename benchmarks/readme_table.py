"""The table on the first page of README: one network, dense and 90% sparse, under three runtimes.

    python benchmarks/readme_table.py --data ../shared/data/fashion-mnist

trains examples/own_cnn.py's network twice on scikit-learn's digits and twice on --data, unless
--out has the files already, measures them, prints the table and writes it into README.md. Needs the
extras ``bench`` and ``study``. Times are the fastest of many interleaved rounds, one thread, one
picture.
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


def measured(example: Any, data: Any, folder: Path) -> dict[str, Any]:
    """The example's outcomes, dense and sparse."""
    folder.mkdir(parents=True, exist_ok=True)
    peers = tuple(each for each in RUNTIMES if each != "billhook")
    outcomes = {}
    for name, sparsity in (("dense", None), ("90% zeros", example.SPARSITY)):
        path = folder / f"{'dense' if sparsity is None else 'sparse'}.safetensors"
        model = trained(example, data, sparsity, path)
        scratch = folder / "measured.safetensors"
        outcomes[name] = example.measure(model, data, scratch, peers=peers)
    return outcomes


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown of the outcomes by data set and name."""
    runtimes = " | ".join(f"{name}, ms" for name in RUNTIMES.values())
    lines = [
        f"| one CNN, {max(_weights(rows)):,} weights | accuracy | file | {runtimes} |",
        "|---|---:|---:|" + "---:|" * len(RUNTIMES),
    ]
    for data, outcomes in rows.items():
        for name, row in outcomes.items():
            times = " | ".join(f"{row.times.best(each):.3f}" for each in RUNTIMES)
            size = f"{row.file_bytes / 1000:,.0f} kB"
            lines.append(f"| {data}, {name} | {row.accuracy:.1f}% | {size} | {times} |")
    return "\n".join(lines)


def _weights(rows: dict[str, dict[str, Any]]) -> list[int]:
    return [row.parameters for outcomes in rows.values() for row in outcomes.values()]


def main() -> None:
    """Measure, print, and write into README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Fashion-MNIST's IDX files; else digits alone")
    parser.add_argument("--out", type=Path, default=Path("runs/readme"))
    parser.add_argument("--epochs", type=int, default=3, help="passes over --data")
    parser.add_argument("--pictures", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--dry-run", action="store_true", help="leave README as it is")
    options = parser.parse_args()
    with_steady_memory()
    sys.path.insert(0, str(ROOT / "examples"))
    example: Any = importlib.import_module("own_cnn")
    rows = {"digits": measured(example, example.digits(30), options.out / "digits")}
    if options.data is not None:
        data = example.from_folder(options.data, options.epochs)
        x, y = data.train
        data = dataclasses.replace(data, train=(x[: options.pictures], y[: options.pictures]))
        rows["Fashion-MNIST"] = measured(example, data, options.out / "fashion")
    text = table(rows)
    print(text)
    if not options.dry_run:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
