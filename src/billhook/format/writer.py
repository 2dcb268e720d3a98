"""save: encode every tensor with the smallest coding and write the file, whole or not at all."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from billhook.atomic import replacing
from billhook.errors import ConfigurationError
from billhook.format.coding import Coding
from billhook.format.codings import Encoding, choose, resolve
from billhook.format.dtypes import dtype_name, file_shape, to_elements
from billhook.format.file_layout import PlannedEntry, build, check_metadata
from billhook.format.prepare import Prepared, canonical, prepare, tensors_of, tied_names
from billhook.format.record import Record, Tied, checksum
from billhook.format.save_report import SaveReport, gzip_size
from billhook.format.summary import TensorSummary

__all__ = ["save"]

_GZIP_LIMIT = 16 << 20  # above this many bytes gzip would take longer than all the rest


@dataclass(frozen=True)
class _Coded:
    """One tensor ready to be written, and what the report says of it."""

    entry: PlannedEntry
    parts: tuple[Any, ...]
    summary: TensorSummary
    lost: int = 0
    negative_zeros: int = 0
    negative_zero_bytes: int = 0


def save(
    model_or_dict: nn.Module | Mapping[str, torch.Tensor],
    path: str | bytes | os.PathLike[str],
    *,
    encoding: Encoding = "auto",
    values: str | None = None,
    keep_survivors: bool = False,
    canonical_zeros: bool = False,
    gzip: bool | None = None,
    metadata: Mapping[str, str] | None = None,
) -> SaveReport:
    """Write a model or a dict of tensors to one safetensors file, each tensor coded.

    ``encoding`` is ``"auto"`` (per tensor the smallest of all codings), one coding's name, or a
    tuple of names (per tensor the smallest of these). ``load`` gives every bit back, those of -0.0
    and of NaN payloads included. The same input gives the same bytes; the file at ``path`` is
    replaced in one step. Tied tensors are stored once.

    ``values`` stores weights (floating tensors of two or more dimensions) as ``"F32"``, ``"F16"``,
    ``"BF16"`` or ``"I8"`` with a scale for each index of the first dimension, where that is
    narrower than their dtype; ``load`` gives the rounded weights in the old dtype. Zeros stay
    zeros; weights that round to zero are reported, or kept at one quantum by ``keep_survivors``.
    ``canonical_zeros`` writes -0.0 as 0.0. ``gzip`` also compresses the dense bytes for the
    report; None does so up to 16 MiB. ``metadata`` is written beside the tensors, as any
    safetensors reader and ``inspect`` show it.

    A link at ``path`` is followed, and an existing file keeps its permissions.

    Raises:
        ConfigurationError: A tensor that no file can hold, an argument that cannot be right, or a
            ``path`` that is a device, a pipe or a socket. Nothing has been written.
        OSError: The folder or the disk refuses; the file at ``path`` is what it was.

    >>> weight = torch.zeros(64, 64)
    >>> weight[0] = 1.0
    >>> report = save({"weight": weight}, "weight.billhook.safetensors", encoding="bitmask")
    >>> [(t.name, t.nnz, t.coding, t.nbytes) for t in report.tensors]
    [('weight', 64, 'bitmask', 768)]
    """
    tensors, target = tensors_of(model_or_dict), Path(os.fsdecode(path))
    codings, metadata = resolve(encoding), check_metadata(metadata)
    if values is not None and getattr(model_or_dict, "is_program", False):
        raise ConfigurationError(
            f"values={values!r} narrows the weights of a model, and this is a compiled program, "
            "whose kernels read fp32: save the model with values=, compile what load gives back"
        )
    coded = [
        _code(each, codings) for each in prepare(tensors, values, keep_survivors, canonical_zeros)
    ]
    _warn_of_dense_name(target, coded)
    with replacing(target) as file:
        for chunk in _chunks(coded, metadata):
            file.write(chunk)
        size = file.tell()
    dense_bytes, gzip_bytes = _dense(tensors, metadata, gzip)
    return SaveReport(
        target,
        tuple(each.summary for each in coded),
        size,
        dense_bytes,
        gzip_bytes,
        sum(each.lost for each in coded),
        sum(each.negative_zeros for each in coded),
        sum(each.negative_zero_bytes for each in coded),
    )


def _code(each: Prepared, codings: Sequence[Coding]) -> _Coded:
    if each.target:
        link = Tied(each.target)
        link = replace(link, crc=checksum(each.name, link))
        summary = TensorSummary(each.name, each.dtype, each.shape, each.nnz, str(link), 0)
        return _Coded(PlannedEntry(each.name, link), (), summary)
    coding, layout, entry = choose(
        codings, lambda coding: coding.measure(each.elements, each.nnz), each.entry
    )
    encoded = coding.encode(each.elements, layout)
    parts = (each.scales.data, encoded.values.view(np.uint8).data, encoded.index.data)
    assert isinstance(entry.record, Record)
    record = replace(entry.record, crc=checksum(each.name, entry.record, *parts))
    summary = TensorSummary(each.name, record.type, each.shape, each.nnz, coding.name, entry.nbytes)
    cost = 0
    if each.negative_zeros:
        cost = entry.nbytes - _canonical_bytes(each, codings)
    return _Coded(
        replace(entry, record=record), parts, summary, each.lost, each.negative_zeros, cost
    )


def _canonical_bytes(each: Prepared, codings: Sequence[Coding]) -> int:
    """Bytes of the values and index if every -0.0 were 0.0."""
    elements = canonical(each.elements)
    nnz = each.nnz - each.negative_zeros
    return choose(codings, lambda coding: coding.measure(elements, nnz), each.entry)[2].nbytes


def _chunks(coded: Sequence[_Coded], metadata: Mapping[str, str]) -> Iterator[Any]:
    header, order = build([each.entry for each in coded], metadata)
    parts = {each.entry.name: each.parts for each in coded}
    yield header
    for each in order:
        yield from parts[each.name]


def _dense(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], gzip: bool | None
) -> tuple[int, int | None]:
    """Bytes of the file that ``encoding="dense"`` writes, before and after gzip."""
    tied = tied_names(tensors)
    entries = [
        PlannedEntry(name, Tied(tied[name]))
        if name in tied
        else PlannedEntry(name, _dense_record(t), t.nbytes)
        for name, t in tensors.items()
    ]
    header, order = build(entries, metadata)
    size = len(header) + sum(each.nbytes for each in order)
    if gzip is False or (gzip is None and size > _GZIP_LIMIT):
        return size, None
    data = (to_elements(tensors[each.name]).reshape(-1).data for each in order)
    return size, gzip_size([header, *data])


def _dense_record(tensor: torch.Tensor) -> Record:
    name = dtype_name(tensor.dtype)
    return Record("dense", name, file_shape(tuple(tensor.shape), name))


def _warn_of_dense_name(path: Path, coded: Sequence[_Coded]) -> None:
    records = [each.entry.record for each in coded]
    plain = all(isinstance(record, Record) and record.plain for record in records)
    if path.name == "model.safetensors" and not plain:
        warnings.warn(
            "a coded file called model.safetensors would be taken for a dense one; call it "
            "model.billhook.safetensors",
            stacklevel=3,
        )
