"""Bytes of a model's file in every coding, to the byte and without writing it.

``footprint(model)`` counts real tensors; ``expected_footprint(specs)`` needs only names, shapes,
dtypes and numbers of nonzeros, so that a sparsity can be solved for a size. Both lay out the very
header that ``save`` writes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.format.coding import Coding, Layout
from billhook.format.codings import Encoding, choose, resolve
from billhook.format.dtypes import dtype_name, to_elements
from billhook.format.plan import Stored, build, tensors_of, tied_names
from billhook.format.record import Record, Tied

__all__ = ["Footprint", "TensorSpec", "expected_footprint", "footprint"]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor known by its counts: ``nnz`` of the elements of ``shape`` are not zero."""

    name: str
    shape: tuple[int, ...]
    nnz: int
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class _Measured:
    """One tensor and how large each coding makes it; ``target`` when it is tied."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    layout: Callable[[Coding], Layout]
    target: str | None = None

    def stored(self, codings: Sequence[Coding]) -> Stored:
        if self.target is not None:
            return Stored(self.name, Tied(self.target))
        size = self.dtype.itemsize
        coding, layout = choose(codings, size, self.layout)
        record = Record(coding.name, dtype_name(self.dtype), self.shape, layout.params)
        return Stored(self.name, record, layout.stored * size + layout.index_bytes)


@dataclass(frozen=True)
class Footprint:
    """The tensors of one file, ready to be laid out in any coding."""

    tensors: tuple[_Measured, ...]

    def file_bytes(self, encoding: Encoding = "auto") -> int:
        """Bytes of the file that ``save(..., encoding=encoding)`` writes, header included."""
        codings = resolve(encoding)
        stored = [each.stored(codings) for each in self.tensors]
        return len(build(stored)[0]) + sum(each.nbytes for each in stored)

    def tensor_bytes(self, encoding: Encoding = "auto") -> dict[str, int]:
        """Bytes of every tensor's entry, by name; 0 for a tied one."""
        codings = resolve(encoding)
        return {each.name: each.stored(codings).nbytes for each in self.tensors}


def footprint(model_or_dict: nn.Module | Mapping[str, torch.Tensor]) -> Footprint:
    """The exact sizes of a model's file, counted from its tensors.

    >>> weight = torch.eye(64)
    >>> footprint({"weight": weight}).tensor_bytes("bitmask")  # 64 * 4 + 64 * 64 / 8
    {'weight': 768}
    """
    tensors = tensors_of(model_or_dict)
    tied = tied_names(tensors)
    return Footprint(tuple(_measure(name, t, tied.get(name)) for name, t in tensors.items()))


def _measure(name: str, tensor: torch.Tensor, target: str | None) -> _Measured:
    elements = to_elements(tensor)
    nnz = int(np.count_nonzero(elements))
    return _Measured(
        name, tensor.dtype, tuple(tensor.shape), lambda c: c.measure(elements, nnz), target
    )


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
    numel = math.prod(spec.shape)
    if not 0 <= spec.nnz <= numel:
        raise ConfigurationError(
            f"tensor {spec.name!r}: nnz={spec.nnz} is not between 0 and the {numel} elements of "
            f"{spec.shape}"
        )
    return _Measured(spec.name, spec.dtype, spec.shape, lambda c: c.expect(numel, spec.nnz))
