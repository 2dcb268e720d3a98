"""Bytes of a model's file in every coding, to the byte and without writing it.

``footprint(model)`` counts real tensors; ``expected_footprint(specs)`` needs only names, shapes,
dtypes and numbers of nonzeros, so that a sparsity can be solved for a size. Both lay out the very
header that ``save`` writes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.format.coding import Coding, Layout
from billhook.format.codings import CODINGS, Encoding, choose, resolve
from billhook.format.dtypes import dtype_name, file_shape
from billhook.format.file_layout import PlannedEntry, build
from billhook.format.prepare import Prepared, prepare, tensors_of
from billhook.format.record import Record, Tied
from billhook.granularity import Granularity, Unstructured
from billhook.render import Table, as_text
from billhook.selection import named_weights, select_weights

__all__ = ["Footprint", "TensorSpec", "expected_footprint", "file_specs", "footprint"]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor known by its counts: ``nnz`` of the elements of ``shape`` are not zero. With
    ``tied_to`` it is another name of that tensor, which is stored once."""

    name: str
    shape: tuple[int, ...]
    nnz: int
    dtype: torch.dtype = torch.float32
    tied_to: str = ""


@dataclass(frozen=True)
class _Measured:
    """One tensor and its bytes in each coding."""

    name: str
    layout: Callable[[Coding], Layout]
    entry_of: Callable[[Coding, Layout], PlannedEntry]

    def entry(self, codings: Sequence[Coding]) -> PlannedEntry:
        return choose(codings, self.layout, self.entry_of)[2]


@dataclass(frozen=True)
class Footprint:
    """The tensors of one file, ready to be laid out in any coding."""

    tensors: tuple[_Measured, ...]

    def file_bytes(self, encoding: Encoding = "auto") -> int:
        """Bytes of the file that ``save(..., encoding=encoding)`` writes, header included."""
        codings = resolve(encoding)
        entries = [each.entry(codings) for each in self.tensors]
        return len(build(entries)[0]) + sum(each.nbytes for each in entries)

    def tensor_bytes(self, encoding: Encoding = "auto") -> dict[str, int]:
        """Bytes of every tensor's entry, by name; 0 for a tied one."""
        codings = resolve(encoding)
        return {each.name: each.entry(codings).nbytes for each in self.tensors}

    def __rich__(self) -> Table:
        """Bytes of every tensor in every coding, of the smallest one, and of the whole file."""
        encodings = (*CODINGS, "auto")
        columns = [self.tensor_bytes(encoding) for encoding in encodings]
        rows = [
            (each.name, *(f"{column[each.name]:,}" for column in columns)) for each in self.tensors
        ]
        rows.append(("the file", *(f"{self.file_bytes(each):,}" for each in encodings)))
        headings = ("bytes of", *(encoding.replace("_", " ") for encoding in encodings))
        return Table(
            "Bytes in every coding; auto takes the smallest, tensor by tensor", headings, rows
        )

    def __str__(self) -> str:
        """The table as plain text."""
        return as_text(self)


def footprint(
    model_or_dict: nn.Module | Mapping[str, torch.Tensor],
    *,
    values: str | None = None,
    keep_survivors: bool = False,
    canonical_zeros: bool = False,
) -> Footprint:
    """The exact sizes of a model's file, counted from its tensors; arguments as for ``save``.

    >>> weight = torch.eye(64)
    >>> footprint({"weight": weight}).tensor_bytes("bitmask")  # 64 * 4 + 64 * 64 / 8
    {'weight': 768}
    """
    prepared = prepare(tensors_of(model_or_dict), values, keep_survivors, canonical_zeros)
    return Footprint(tuple(_measure(each) for each in prepared))


def _measure(each: Prepared) -> _Measured:
    known: dict[Coding, Layout] = {}  # a table asks several times, and some encode to measure

    def layout(coding: Coding) -> Layout:
        if coding not in known:
            known[coding] = replace(coding.measure(each.elements, each.nnz), index=None)
        return known[coding]

    return _Measured(each.name, layout, each.entry)


def expected_footprint(specs: Iterable[TensorSpec]) -> Footprint:
    """The sizes of the file of tensors of which only the counts are known; nothing is encoded.

    Exact to the byte when ``encoding`` is ``"dense"``, ``"bitmask"`` or ``("dense", "bitmask")``,
    whose sizes depend on nothing else; the other codings' are expectations over random masks.

    >>> sparse = expected_footprint([TensorSpec("weight", (1000, 1000), nnz=100_000)])
    >>> sparse.tensor_bytes("bitmask")
    {'weight': 525000}
    """
    return Footprint(tuple(_expect(spec) for spec in specs))


def _expect(spec: TensorSpec) -> _Measured:
    numel, width = math.prod(spec.shape), spec.dtype.itemsize
    if not 0 <= spec.nnz <= numel:
        raise ConfigurationError(
            f"tensor {spec.name!r}: nnz={spec.nnz} is not between 0 and the {numel} elements of "
            f"{spec.shape}"
        )
    dtype = dtype_name(spec.dtype)
    return _Measured(
        spec.name,
        lambda coding: coding.expect(numel, spec.nnz, width),
        lambda coding, layout: (
            PlannedEntry(spec.name, Tied(spec.tied_to))
            if spec.tied_to
            else PlannedEntry(
                spec.name,
                Record(coding.name, dtype, file_shape(spec.shape, dtype), layout.params),
                layout.nbytes(width),
            )
        ),
    )


def file_specs(
    model: nn.Module, sparsity: float, granularity: Granularity = Unstructured()
) -> tuple[list[TensorSpec], int]:
    """The tensors of the model's file, and how many weights are pruned to ``sparsity``."""
    rules = getattr(model, "prune_rules", None)
    pruned = {
        name: (share, weight.pattern_shape)
        for weight, share in select_weights(model, rules, sparsity).pruned
        for name in weight.names
    }
    first = {name: weight.names[0] for weight in named_weights(model) for name in weight.names}
    specs, prunable = [], 0
    for name, tensor in model.state_dict().items():
        tied = first.get(name, name)
        numel = tensor.numel()
        nnz = numel
        if name in pruned:
            try:
                share, shape = pruned[name]
                nnz = granularity.kept(shape, share)
            except ConfigurationError as error:
                raise ConfigurationError(f"{name!r}: {error}") from None
            prunable += numel if tied == name else 0
        specs.append(
            TensorSpec(
                name, tuple(tensor.shape), nnz, tensor.dtype, tied_to="" if tied == name else tied
            )
        )
    return specs, prunable
