"""load and inspect: map a file, check it, decode tensor by tensor."""

import math
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from billhook.errors import FormatError
from billhook.format.coding import Encoded
from billhook.format.codings import find
from billhook.format.container import Entry, parse_header
from billhook.format.dtypes import Elements, from_elements, width
from billhook.format.plan import VERSION
from billhook.format.record import SUFFIX, Record, Tied, checksum, parse
from billhook.format.summary import TensorSummary, render, table

__all__ = ["Inspection", "Reader", "inspect", "load"]


class Reader:
    """An open file: the header is read and checked, tensors are decoded when asked for.

    Iterating gives the tensors' names in the order they were saved. Use it as a context manager.

    >>> from billhook import save
    >>> _ = save({"weight": torch.eye(64)}, "eye.billhook.safetensors")
    >>> with Reader("eye.billhook.safetensors") as file:
    ...     print(list(file), file.tensor("weight").sum())
    ['weight'] tensor(64.)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            self.nbytes = os.fstat(file.fileno()).st_size
            # An empty file cannot be mapped.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.nbytes else b""
        self._data = memoryview(self._map)
        try:
            self._entries, metadata = parse_header(self._data)
            self.coded = "billhook" in metadata
            self._records = self._read_records(metadata) if self.coded else self._plain_records()
        except FormatError as error:
            self.close()
            raise FormatError(f"{self.path}: {error}") from error

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Unmap the file; tensors that were read stay valid."""
        self._data.release()
        if isinstance(self._map, mmap.mmap):
            self._map.close()

    def __iter__(self) -> Any:
        """The tensors' names."""
        return iter(self._records)

    def record(self, name: str) -> Record | Tied:
        """How the tensor ``name`` is stored."""
        if name not in self._records:
            known = ", ".join(list(self._records)[:10])
            raise FormatError(f"{self.path} has no tensor {name!r}; it has {known}")
        return self._records[name]

    def entry_bytes(self, name: str) -> int:
        """Bytes of the tensor's entry; 0 for a tied one."""
        record = self.record(name)
        return self._entry(name, record).nbytes if isinstance(record, Record) else 0

    def elements(self, name: str) -> Elements:
        """The decoded bits of a tensor that is not tied, checked against its CRC."""
        record = self.record(name)
        assert isinstance(record, Record)
        entry = self._entry(name, record)
        try:
            return self._decode(name, record, entry)
        except FormatError as error:
            raise FormatError(
                f"{self.path}: tensor {name!r} at byte {entry.begin}: {error}"
            ) from error

    def tensor(self, name: str) -> torch.Tensor:
        """The dense tensor ``name``, in memory of its own."""
        record = self.record(name)
        if isinstance(record, Tied):
            return self.tensor(record.target)
        return from_elements(self.elements(name), record.dtype, record.shape)

    def _decode(self, name: str, record: Record, entry: Entry) -> Elements:
        data = self._data[entry.begin : entry.end]
        if self.coded:
            found = checksum(name, record, data)
            if found != record.crc:
                raise FormatError(
                    f"CRC-32 {found:08x} where the file says {record.crc:08x}: it is damaged, get "
                    "it again"
                )
        size, numel = width(record.dtype), math.prod(record.shape)
        coding = find(record.coding)
        stored = coding.stored(numel, record.params, entry.nbytes, size)
        values = np.frombuffer(data[: stored * size], dtype=f"<u{size}")
        index = np.frombuffer(data[stored * size :], dtype=np.uint8)
        return coding.decode(Encoded(values, index, record.params), numel)

    def _entry(self, name: str, record: Record) -> Entry:
        return self._entries[name if record.plain else name + SUFFIX]

    def _plain_records(self) -> dict[str, Record | Tied]:
        for name in self._entries:
            if name.endswith(SUFFIX):
                raise FormatError(
                    f"tensor {name!r} is coded, but the metadata that describe it are gone; some "
                    "tool rewrote the file: get the one billhook wrote"
                )
        return {
            entry.name: Record("dense", entry.dtype, entry.shape)
            for entry in self._entries.values()
        }

    def _read_records(self, metadata: dict[str, str]) -> dict[str, Record | Tied]:
        if metadata["billhook"] != VERSION:
            raise FormatError(
                f"format version {metadata['billhook']!r}; this release reads version {VERSION}: "
                "install a newer billhook"
            )
        records = {k[1:]: parse(k[1:], v) for k, v in metadata.items() if k.startswith("@")}
        wanted: set[str] = set()
        for name, record in records.items():
            if isinstance(record, Record):
                wanted.add(self._check_entry(name, record))
            else:
                _check_tie(name, record, records)
        if extra := set(self._entries) - wanted:
            raise FormatError(f"tensor {min(extra)!r} has no record in the metadata")
        return records

    def _check_entry(self, name: str, record: Record) -> str:
        entry_name = name if record.plain else name + SUFFIX
        entry = self._entries.get(entry_name)
        if entry is None:
            raise FormatError(f"tensor {name!r}: its entry {entry_name!r} is missing")
        if record.plain and (entry.dtype, entry.shape) != (record.dtype, record.shape):
            raise FormatError(
                f"tensor {name!r} at byte {entry.begin}: the record says {record}, the header "
                f"{entry.dtype} {list(entry.shape)}"
            )
        if not record.plain and entry.dtype != "U8":
            raise FormatError(
                f"tensor {name!r} at byte {entry.begin}: coded entries are U8, not {entry.dtype}"
            )
        return entry_name


def _check_tie(name: str, record: Tied, records: dict[str, Record | Tied]) -> None:
    if not isinstance(records.get(record.target), Record):
        raise FormatError(f"tensor {name!r}: tied to {record.target!r}, which is not stored")
    if checksum(name, record) != record.crc:
        raise FormatError(f"tensor {name!r}: the record's CRC-32 is not {record.crc:08x}")


def load(
    path: str | os.PathLike[str], *, tensors: Iterable[str] | None = None
) -> dict[str, torch.Tensor]:
    """The dense tensors of a file ``save`` wrote, or of any safetensors file, bit for bit.

    ``tensors`` names those to decode, the others are not read. Tied names share one tensor.
    Raises FormatError on a file that is damaged, hostile or of a later version.

    >>> from billhook import save
    >>> _ = save({"weight": torch.eye(64), "bias": torch.zeros(64)}, "m.billhook.safetensors")
    >>> sorted(load("m.billhook.safetensors"))
    ['bias', 'weight']
    >>> list(load("m.billhook.safetensors", tensors=["bias"]))
    ['bias']
    """
    loaded: dict[str, torch.Tensor] = {}
    with Reader(path) as file:
        wanted = list(file) if tensors is None else list(tensors)
        decoded: dict[str, torch.Tensor] = {}
        for name in wanted:
            record = file.record(name)
            stored = record.target if isinstance(record, Tied) else name
            if stored not in decoded:
                decoded[stored] = file.tensor(stored)
            loaded[name] = decoded[stored]
    return loaded


@dataclass(frozen=True)
class Inspection:
    """What a file holds: ``print`` it for the table; ``nbytes`` is the size of the file."""

    path: Path
    nbytes: int
    tensors: tuple[TensorSummary, ...]

    def __str__(self) -> str:
        """The table as plain text."""
        return render(self.__rich__())

    def __rich__(self) -> Any:
        """The table for rich."""
        numel = sum(each.numel for each in self.tensors if each.nbytes)
        nnz = sum(each.nnz for each in self.tensors if each.nbytes)
        return table(
            self.tensors,
            f"{self.path.name}: {self.nbytes:,} bytes, {nnz:,} of {numel:,} elements not zero",
        )


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """What is in a file, tensor by tensor; nonzeros are counted, and CRCs of dense ones checked.

    >>> from billhook import save
    >>> _ = save({"weight": torch.eye(64)}, "eye.billhook.safetensors", encoding="bitmask")
    >>> [(t.name, t.shape, t.nnz, t.coding) for t in inspect("eye.billhook.safetensors").tensors]
    [('weight', (64, 64), 64, 'bitmask')]
    """
    with Reader(path) as file:
        summaries = tuple(_summarise(file, name) for name in file)
        return Inspection(file.path, file.nbytes, summaries)


def _summarise(file: Reader, name: str) -> TensorSummary:
    record = file.record(name)
    if isinstance(record, Tied):
        target = _summarise(file, record.target)
        return TensorSummary(name, target.dtype, target.shape, target.nnz, str(record), 0)
    nnz = record.params.get("nnz")
    if nnz is None:
        nnz = int(np.count_nonzero(file.elements(name)))
    return TensorSummary(
        name, record.dtype, record.shape, nnz, record.coding, file.entry_bytes(name)
    )
