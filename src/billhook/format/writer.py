"""save: encode every tensor with the smallest coding and write the file, whole or not at all."""

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from billhook.format.codings import Encoding, choose, resolve
from billhook.format.container import write_atomically
from billhook.format.dtypes import dtype_name, to_elements
from billhook.format.plan import Stored, build, tensors_of, tied_names
from billhook.format.record import Record, Tied, checksum
from billhook.format.summary import TensorSummary, render

__all__ = ["SaveReport", "save"]


@dataclass(frozen=True)
class SaveReport:
    """What ``save`` wrote.

    ``stored_bytes`` is the size of the file on disk, ``dense_bytes`` that of the file
    ``encoding="dense"`` would have written; both exact."""

    path: Path
    tensors: tuple[TensorSummary, ...]
    stored_bytes: int
    dense_bytes: int

    @property
    def ratio(self) -> float:
        """``dense_bytes / stored_bytes``."""
        return self.dense_bytes / self.stored_bytes

    def __str__(self) -> str:
        """The per-tensor table and the totals."""
        return render(self.__rich__())

    def __rich__(self) -> Any:
        """The same for rich."""
        from billhook.format.summary import table

        return table(self.tensors, self._title)

    @property
    def _title(self) -> str:
        return (
            f"{self.path.name}: {self.stored_bytes:,} bytes, dense {self.dense_bytes:,} "
            f"({self.ratio:.2f}x smaller)"
        )


@dataclass(frozen=True)
class _Coded:
    """One tensor ready to be written."""

    stored: Stored
    parts: tuple[Any, ...]
    summary: TensorSummary


def save(
    model_or_dict: nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    encoding: Encoding = "auto",
) -> SaveReport:
    """Write a model or a dict of tensors to one safetensors file, each tensor coded.

    ``encoding`` is ``"auto"`` (per tensor the smallest of all codings), one coding's name, or a
    tuple of names (per tensor the smallest of these). ``load`` gives every bit back, those of -0.0
    and of NaN payloads included. The same input gives the same bytes; the file at ``path`` is
    replaced in one step. Tied tensors are stored once.

    >>> weight = torch.zeros(64, 64)
    >>> weight[0] = 1.0
    >>> report = save({"weight": weight}, "weight.billhook.safetensors", encoding="bitmask")
    >>> [(t.name, t.nnz, t.coding, t.nbytes) for t in report.tensors]
    [('weight', 64, 'bitmask', 768)]
    """
    tensors = tensors_of(model_or_dict)
    tied = tied_names(tensors)
    coded = [_code(name, tensors, tied, encoding) for name in tensors]
    header, order = build([each.stored for each in coded])
    parts = {each.stored.name: each.parts for each in coded}

    def chunks() -> Iterator[Any]:
        yield header
        for each in order:
            yield from parts[each.name]

    target = Path(path)
    _warn_of_dense_name(target, coded)
    size = write_atomically(target, chunks())
    return SaveReport(
        target, tuple(each.summary for each in coded), size, _dense_size(tensors, tied)
    )


def _code(
    name: str, tensors: Mapping[str, torch.Tensor], tied: Mapping[str, str], encoding: Encoding
) -> _Coded:
    tensor = tensors[name]
    dtype, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
    elements = to_elements(tensor)
    nnz = int(np.count_nonzero(elements))
    if name in tied:
        link = Tied(tied[name])
        link = replace(link, crc=checksum(name, link))
        return _Coded(Stored(name, link), (), TensorSummary(name, dtype, shape, nnz, str(link), 0))
    coding, layout = choose(
        resolve(encoding), elements.itemsize, lambda coding: coding.measure(elements, nnz)
    )
    encoded = coding.encode(elements, layout)
    parts = (encoded.values.view(np.uint8).data, encoded.index.data)
    record = Record(coding.name, dtype, shape, encoded.params)
    record = replace(record, crc=checksum(name, record, *parts))
    nbytes = sum(part.nbytes for part in parts)
    summary = TensorSummary(name, dtype, shape, nnz, coding.name, nbytes)
    return _Coded(Stored(name, record, nbytes), parts, summary)


def _dense_size(tensors: Mapping[str, torch.Tensor], tied: Mapping[str, str]) -> int:
    stored = [
        Stored(name, Tied(tied[name]))
        if name in tied
        else Stored(name, Record("dense", dtype_name(t.dtype), tuple(t.shape)), t.nbytes)
        for name, t in tensors.items()
    ]
    return len(build(stored)[0]) + sum(each.nbytes for each in stored)


def _warn_of_dense_name(path: Path, coded: list[_Coded]) -> None:
    plain = all(
        isinstance(each.stored.record, Record) and each.stored.record.plain for each in coded
    )
    if path.name == "model.safetensors" and not plain:
        warnings.warn(
            "a coded file called model.safetensors would be taken for a dense one; call it "
            "model.billhook.safetensors",
            stacklevel=3,
        )
