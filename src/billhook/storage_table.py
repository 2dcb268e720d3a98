"""The paper's Tables 5 and 6 from an architecture, and the bytes of whole files.

No weights are made: a model is built on the meta device and only counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Group
from torch import nn

from billhook.footprint import expected_footprint, file_specs
from billhook.format.relative_index import RelativeIndex
from billhook.named_model import build_model
from billhook.render import Table
from billhook.selection import named_weights

__all__ = ["PAPER_SPARSITIES", "StorageRow", "as_json", "as_table", "rows"]

PAPER_SPARSITIES = (0.0, 0.5, 0.75, 0.9, 0.95)
_MB = 1e6
_BYTES = 4  # a value in fp32


@dataclass(frozen=True)
class StorageRow:
    """One model at one sparsity. ``nnz`` counts the parameters that are not zero, those of norms
    left out, as in the paper.

    ``paper_*`` is the paper's arithmetic, in MB of 1e6 bytes: NNZ rounded to 0.01M times 4 bytes,
    plus the smaller of one bit per prunable weight and 4 bits per nonzero, without padding.
    ``exact_*`` does the same with whole counts, in bytes; ``exact_padded_index`` is the 4-bit index
    of the pruned tensors with its padding zeros, expected for random masks. ``file_*`` are bytes of
    whole files, norms and header included: exact for ``dense`` and ``bitmask`` (per tensor the
    smaller of the two), expected for random masks for ``relative_index`` (with dense) and ``auto``.
    """

    model: str
    sparsity: float
    nnz: int
    paper_mask: float
    paper_index: float
    paper_total: float
    exact_total: int
    exact_padded_index: int
    file_dense: int
    file_bitmask: int
    file_relative_index: int
    file_auto: int


def rows(targets: Sequence[str], sparsities: Sequence[float]) -> Iterator[StorageRow]:
    """Every model at every sparsity."""
    for target in targets:
        model = build_model(target)
        for sparsity in sparsities:
            yield _row(target, model, sparsity)


def _row(target: str, model: nn.Module, sparsity: float) -> StorageRow:
    specs, prunable = file_specs(model, sparsity)
    parameters = _without_norms(model)
    nnz = sum(spec.nnz for spec in specs if spec.name in parameters)
    dense = sparsity == 0
    mask, index = (0.0, 0.0) if dense else (prunable / 8, nnz / 2)
    padded = 0.0
    for spec in specs:
        numel = torch.Size(spec.shape).numel()
        if spec.nnz < numel:
            layout = RelativeIndex(bits=4).expect(numel, spec.nnz, _BYTES)
            padded += layout.nbytes(_BYTES) - spec.nnz * _BYTES
    files = expected_footprint(specs)
    return StorageRow(
        target,
        sparsity,
        nnz,
        mask / _MB,
        index / _MB,
        round(nnz / _MB, 2) * _BYTES + min(mask, index) / _MB,
        nnz * _BYTES + round(min(mask, index)),
        round(padded),
        files.file_bytes("dense"),
        files.file_bytes(("dense", "bitmask")),
        files.file_bytes(("dense", "relative_index")),
        files.file_bytes("auto"),
    )


def _without_norms(model: nn.Module) -> set[str]:
    """The first names of the parameters that belong to no normalisation."""
    weights = named_weights(model)
    norms = {id(owner) for w in weights if w.kind == "norm" for owner, _ in w.owners}
    return {w.name for w in weights if not any(id(owner) in norms for owner, _ in w.owners)}


def as_table(table: Sequence[StorageRow]) -> Group:
    """The rows for people: the paper's arithmetic beside the exact counts, then the files."""
    counts, files = [], []
    for row in table:
        name = row.model, f"{row.sparsity:.1%}"
        paper = (row.paper_mask, row.paper_index, row.paper_total)
        exact = (row.exact_total / _MB, row.exact_padded_index / _MB)
        counts.append((*name, f"{row.nnz:,}", *(f"{v:.2f}" for v in (*paper, *exact))))
        sizes = (row.file_dense, row.file_bitmask, row.file_relative_index, row.file_auto)
        files.append((*name, *(f"{size:,}" for size in sizes)))
    about = "model", "sparsity"
    counted = (*about, "NNZ", "P mask", "P CSR(C)", "P total", "E total", "E 4-bit, padded*")
    stored = (*about, "dense", "bitmask", "relative index*", "auto*")
    title = "MB of 1e6 bytes, norms not counted: the paper's arithmetic (P) and exact counts (E)"
    return Group(
        Table(title, counted, counts, keys=2),
        Table("Bytes of whole files", stored, files, keys=2),
        "* expected for random masks; everything else is exact",
    )


def as_json(table: Sequence[StorageRow]) -> dict[str, Any]:
    """The rows for programs; ``StorageRow`` says what each field is."""
    return {"unit_of_paper": "MB of 1e6 bytes", "rows": [asdict(row) for row in table]}
