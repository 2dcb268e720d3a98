"""Size and speed of the codings, beside dense safetensors, gzip, zstd -19 and scipy.sparse.

    python benchmarks/format.py

Weights: *random*, 1024 x 1024 fp32, normal, zeros anywhere; *trained*, the 512 x 512 layer of a
perceptron trained on scikit-learn's digits and pruned while it trained. Sizes are those of whole
files. Speeds are MB of dense fp32 a second on one thread, the best of some rounds: in memory for
the codings (choosing parameters, encoding, decoding: no file, no checksum), and `load` is from a
file in the page cache to dense torch tensors or numpy arrays, checksum and all.
"""

import gzip
import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import scipy.sparse
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import billhook
from billhook.format.codings import CODINGS
from billhook.format.dtypes import to_elements
from billhook.format.entropy import mask_floor_bits

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.975)
ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One method on one tensor; speeds in MB/s of dense fp32, None where there is no such step."""

    method: str
    file_bytes: int
    load: float
    encode: float | None = None
    decode: float | None = None


def _random(sparsity: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1024, 1024, generator=generator) * 0.04
    order = torch.randperm(weight.numel(), generator=generator)
    weight.view(-1)[order[: round(sparsity * weight.numel())]] = 0.0
    return weight


def _trained(sparsity: float) -> Tensor:
    """The middle layer of a perceptron after 600 steps, the first 400 of them pruning."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    optimizer = torch.optim.Adam(model.parameters())
    schedule = billhook.Cubic(sparsity, begin_step=0, end_step=400, frequency=20)
    pruner = billhook.Pruner(model, optimizer, schedule)
    for _ in range(600):
        batch = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    pruner.finalize()
    return model[2].weight.detach().clone()  # type: ignore[union-attr, operator]


def _speed(weight: Tensor, call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return weight.nbytes / 1e6 / min(times)


def _codings(weight: Tensor, folder: Path) -> list[Row]:
    rows = []
    elements = to_elements(weight)
    nnz = int(np.count_nonzero(elements))
    for name, coding in CODINGS.items():
        path = folder / f"{name}.billhook.safetensors"
        size = billhook.save({"w": weight}, path, encoding=name, gzip=False).stored_bytes
        encoded = coding.encode(elements, coding.measure(elements, nnz))
        rows.append(
            Row(
                f"billhook {name}",
                size,
                _speed(weight, lambda path=path: billhook.load(path)),  # type: ignore[misc]
                None
                if name == "dense"  # stored as it is
                else _speed(
                    weight,
                    lambda c=coding: c.encode(elements, c.measure(elements, nnz)),  # type: ignore[misc]
                ),
                _speed(
                    weight,
                    lambda c=coding, e=encoded: c.decode(e, elements.shape),  # type: ignore[misc]
                ),
            )
        )
    return rows


def _others(weight: Tensor, folder: Path) -> list[Row]:
    dense, npz = folder / "dense.safetensors", folder / "csr.npz"
    safetensors.torch.save_file({"w": weight}, dense)
    scipy.sparse.save_npz(npz, scipy.sparse.csr_array(weight.numpy()), compressed=False)
    packed = gzip.compress(dense.read_bytes(), 6)
    (folder / "dense.gz").write_bytes(packed)

    def unzip() -> object:
        return safetensors.torch.load(gzip.decompress((folder / "dense.gz").read_bytes()))

    rows = [
        Row(
            "safetensors, dense",
            dense.stat().st_size,
            _speed(weight, lambda: safetensors.torch.load_file(dense)),
        ),
        Row("gzip -6 of dense", len(packed), _speed(weight, unzip)),
        Row(
            "scipy.sparse CSR npz",
            npz.stat().st_size,
            _speed(weight, lambda: scipy.sparse.load_npz(npz).toarray()),
        ),
    ]
    if zstd := shutil.which("zstd"):
        target = folder / "dense.zst"
        subprocess.run([zstd, "-q", "-19", str(dense), "-o", str(target)], check=True)

        def decompress() -> object:
            done = subprocess.run([zstd, "-dcq", str(target)], check=True, capture_output=True)
            return safetensors.torch.load(done.stdout)

        rows.append(Row("zstd -19 of dense", target.stat().st_size, _speed(weight, decompress)))
    return rows


def _table(title: str, first: str, columns: list[str], cells: dict[str, list[str]]) -> None:
    print(f"\n**{title}**\n\n| {first} | {' | '.join(columns)} |")
    print("|---|" + "---:|" * len(columns))
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def _floor(weight: Tensor) -> float:
    nnz = int(torch.count_nonzero(weight))
    return 4 * nnz + mask_floor_bits(weight.numel(), nnz) / 8


def _speeds(row: Row) -> str:
    shown = ["-" if speed is None else f"{speed:,.0f}" for speed in (row.encode, row.decode)]
    return f"{shown[0]} / {shown[1]} / {row.load:,.0f}"


def main() -> None:
    """Print tables of Markdown: sizes and speeds for each kind of weights, by sparsity."""
    torch.set_num_threads(1)
    logging.getLogger("billhook").setLevel("WARNING")
    columns = [f"{sparsity:.1%}" for sparsity in SPARSITIES]
    for what, weights in (("random", _random), ("trained", _trained)):
        sizes: dict[str, list[str]] = {"floor": []}
        speeds: dict[str, list[str]] = {}
        for sparsity in SPARSITIES:
            weight = weights(sparsity)
            sizes["floor"].append(f"{_floor(weight):,.0f}")
            with tempfile.TemporaryDirectory() as name:
                rows = _codings(weight, Path(name)) + _others(weight, Path(name))
            for row in rows:
                share = f"{row.file_bytes:,} ({row.file_bytes / _floor(weight):.3f})"
                sizes.setdefault(row.method, []).append(share)
                speeds.setdefault(row.method, []).append(_speeds(row))
        _table(f"{what}: file bytes (of the floor)", "method", columns, sizes)
        _table(f"{what}: MB/s encode / decode / load", "method", columns, speeds)


if __name__ == "__main__":
    main()
