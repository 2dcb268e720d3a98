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
from numpy.typing import NDArray

from billhook.errors import FormatError, StateError
from billhook.format.coding import Encoded
from billhook.format.codings import find
from billhook.format.container import Entry, parse_header
from billhook.format.dtypes import Elements, check_shape, from_elements, width
from billhook.format.file_layout import VERSION
from billhook.format.foreign import foreign_file
from billhook.format.record import SUFFIX, Record, Tied, checksum, is_record, parse
from billhook.format.summary import TensorSummary, table
from billhook.format.values import check_record, dequantise

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
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.nbytes else b""
        self._data: memoryview | None = memoryview(mapped)
        try:
            self._entries, metadata = parse_header(memoryview(mapped))
            self.coded = "billhook" in metadata
            self._records = (
                self._read_records(metadata) if self.coded else self._plain_records(metadata)
            )
        except FormatError as error:
            kind = foreign_file(bytes(mapped[:32]))
            self.close()
            cause = error if kind is None else f"this is {kind} ({error})"
            raise FormatError(f"{self.path}: {cause}") from error

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
        """Let go of the file; tensors that were read stay valid.

        It is unmapped when nothing refers to it any more, which an error's traceback may.
        """
        self._data = None

    def __iter__(self) -> Any:
        """The tensors' names."""
        return iter(self._records)

    def record(self, name: str) -> Record | Tied:
        """How the tensor ``name`` is stored."""
        if name not in self._records:
            known = ", ".join(list(self._records)[:10])
            raise FormatError(f"{self.path} has no tensor {name!r}; it has {known}")
        return self._records[name]

    def final_record(self, name: str) -> Record:
        """The record of the tensor ``name``, or of the one that it is tied to."""
        record = self.record(name)
        # A target is never tied itself: that was checked when the file was opened.
        return record if isinstance(record, Record) else self.final_record(record.target)

    def entry_bytes(self, name: str) -> int:
        """Bytes of the tensor's entry; 0 for a tied one."""
        record = self.record(name)
        return self._entry(name, record).nbytes if isinstance(record, Record) else 0

    def elements(self, name: str) -> tuple[Elements, NDArray[np.float32]]:
        """The decoded values of a tensor that is not tied, checked against its CRC, and their
        scales (none unless they are ``I8``)."""
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
        elements, scales = self.elements(name)
        if not record.values:
            return from_elements(elements, record.dtype)
        try:
            return dequantise(elements, record.values, scales, record.dtype)
        except FormatError as error:
            raise FormatError(f"{self.path}: tensor {name!r}: {error}") from error

    def _decode(
        self, name: str, record: Record, entry: Entry
    ) -> tuple[Elements, NDArray[np.float32]]:
        if self._data is None:
            raise StateError(f"{self.path} is closed; read its tensors before that")
        data = self._data[entry.begin : entry.end]
        if self.coded:
            found = checksum(name, record, data)
            if found != record.crc:
                raise FormatError(
                    f"CRC-32 {found:08x} where the file says {record.crc:08x}: it is damaged, get "
                    "it again"
                )
        head = 0
        if record.values:
            head = check_record(record.dtype, record.values, record.shape)
            if head > entry.nbytes:
                raise FormatError(f"{head} bytes of scales in an entry of {entry.nbytes}")
        scales, data = np.frombuffer(data[:head], dtype="<f4").copy(), data[head:]
        size, numel = width(record.values or record.dtype), math.prod(record.shape)
        coding = find(record.coding)
        stored = coding.stored(numel, record.params, data.nbytes, size)
        values = np.frombuffer(data[: stored * size], dtype=f"<u{size}")
        index = np.frombuffer(data[stored * size :], dtype=np.uint8)
        claimed, nnz = record.params.get("nnz"), int(np.count_nonzero(values))
        if claimed not in (None, nnz):
            raise FormatError(f"nnz={claimed}, but {nnz} of the stored values are not zero")
        return coding.decode(Encoded(values, index, record.params), record.shape), scales

    def _entry(self, name: str, record: Record) -> Entry:
        return self._entries[name if record.plain else name + SUFFIX]

    def _plain_records(self, metadata: dict[str, str]) -> dict[str, Record | Tied]:
        orphans = [key for key, text in metadata.items() if is_record(key, text)]
        for name in [*orphans, *self._entries]:
            if name in orphans or name.endswith(SUFFIX):
                raise FormatError(
                    f"{name!r} belongs to a billhook file whose other metadata are gone; some "
                    "tool rewrote the file: get the one billhook wrote"
                )
        return {
            entry.name: Record("dense", entry.dtype, entry.shape)
            for entry in self._entries.values()
        }

    def _read_records(self, metadata: dict[str, str]) -> dict[str, Record | Tied]:
        version, _, count = metadata["billhook"].partition(" ")
        if version != VERSION:
            raise FormatError(
                f"format version {version!r}; this release reads version {VERSION}: install a "
                "newer billhook"
            )
        records = {k[1:]: parse(k[1:], v) for k, v in metadata.items() if k.startswith("@")}
        if str(len(records)) != count:
            raise FormatError(f"{len(records)} records where the metadata promise {count!r}")
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
        try:
            check_shape(record.shape, record.dtype)
        except FormatError as error:
            raise FormatError(f"tensor {name!r}: {error}") from error
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
        from billhook.render import as_text

        return as_text(self.__rich__())

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
        nnz = int(np.count_nonzero(file.elements(name)[0]))
    return TensorSummary(
        name, record.type, record.shape, nnz, record.coding, file.entry_bytes(name)
    )
