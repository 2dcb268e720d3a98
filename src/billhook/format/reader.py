"""load and inspect: open a file, check it, decode tensor by tensor.

Bytes are read, never mapped: a file that is cut off while it is mapped (``cp``, a network file
system) ends the process, and no check can come before that.
"""

import errno
import io
import math
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import FormatError, StateError
from billhook.format.coding import Encoded
from billhook.format.codings import CODINGS, find
from billhook.format.container import LENGTH, Entry, header_length, parse_header
from billhook.format.dtypes import (
    DTYPES,
    Elements,
    check_shape,
    element_shape,
    from_elements,
    width,
)
from billhook.format.file_layout import VERSION, user_metadata
from billhook.format.foreign import foreign_file
from billhook.format.portable import Bytes
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

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path = Path(os.fsdecode(path))
        self._lock = threading.Lock()
        self._file: io.FileIO | None = _open(self.path)
        try:
            self.nbytes = os.fstat(self._file.fileno()).st_size
            length = header_length(self._read(0, min(LENGTH, self.nbytes)).tobytes(), self.nbytes)
            text = self._read(LENGTH, LENGTH + length).tobytes()
            self._entries, metadata = parse_header(text, self.nbytes)
            self.coded = "billhook" in metadata
            self._records = (
                self._read_records(metadata) if self.coded else self._plain_records(metadata)
            )
            self.metadata = user_metadata(metadata)
        except FormatError as error:
            kind = self._foreign()
            self.close()
            cause = error if kind is None else f"this is {kind} ({error})"
            raise FormatError(f"{self.path}: {cause}") from error
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        """Close the file, if nobody did."""
        if hasattr(self, "_file"):
            self.close()

    def _foreign(self) -> str | None:
        """What else the file may be; nothing, where its header begins with a brace."""
        start = self._read(0, min(32, self.nbytes)).tobytes()
        return None if start[LENGTH : LENGTH + 1] == b"{" else foreign_file(start)

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
        """Let go of the file; tensors that were read stay valid."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _read(self, begin: int, end: int) -> Bytes:
        """These bytes of the file, in memory of their own; safe from several threads."""
        if self._file is None:
            raise StateError(f"{self.path} is closed; read its tensors before that")
        data = np.empty(end - begin, dtype=np.uint8)
        done = 0
        with self._lock:
            self._file.seek(begin)
            while done < data.size:
                count = self._file.readinto(data[done:].data)
                if not count:
                    raise FormatError(
                        f"the file ends at byte {begin + done}, and had {self.nbytes} bytes when "
                        "it was opened: something cut it off; get it again"
                    )
                done += count
        return data

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

    def nnz(self, name: str) -> int | None:
        """How many elements of a tensor that is not tied are not zero; None for a dtype or coding
        that this release does not know. Counted, or what a record says that fits its entry."""
        record = self.record(name)
        assert isinstance(record, Record)
        if record.dtype not in DTYPES or record.coding not in CODINGS:
            return None
        if "nnz" not in record.params:
            return int(np.count_nonzero(self.elements(name)[0]))
        with self._naming(name):
            _counts(record, self._entry(name, record))
        return record.params["nnz"]

    def elements(self, name: str) -> tuple[Elements, NDArray[np.float32]]:
        """The decoded values of a tensor that is not tied, checked against its CRC, and their
        scales (none unless they are ``I8``)."""
        record = self.record(name)
        assert isinstance(record, Record)
        with self._naming(name):
            scales, encoded = self._encoded(name, record, self._entry(name, record))
            shape = element_shape(record.shape, record.dtype)
            return find(record.coding).decode(encoded, shape), scales

    def nonzeros(self, name: str) -> tuple[Bytes, Elements]:
        """The mask of a tensor of one type, and its elements that are not zero, never dense: bit i
        of byte j stands for element ``8 j + i``. That there are as many bits as elements is left
        to the caller to check."""
        record = self.record(name)
        if isinstance(record, Tied):
            return self.nonzeros(record.target)
        with self._naming(name):
            if record.values:
                raise FormatError(f"its values are {record.values}, not {record.dtype}")
            _, encoded = self._encoded(name, record, self._entry(name, record))
            shape = element_shape(record.shape, record.dtype)
            return find(record.coding).nonzeros(encoded, shape)

    def tensor(self, name: str) -> torch.Tensor:
        """The dense tensor ``name``, in memory of its own."""
        record = self.record(name)
        if isinstance(record, Tied):
            return self.tensor(record.target)
        elements, scales = self.elements(name)
        if not record.values:
            return from_elements(elements, record.dtype)
        with self._naming(name):
            return dequantise(elements, record.values, scales, record.dtype)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Errors say in which file, of which tensor, and where it begins."""
        try:
            yield
        except FormatError as error:
            begin = self._entry(name, self.final_record(name)).begin
            raise FormatError(f"{self.path}: tensor {name!r} at byte {begin}: {error}") from error

    def _encoded(
        self, name: str, record: Record, entry: Entry
    ) -> tuple[NDArray[np.float32], Encoded]:
        head, count = _counts(record, entry)
        data = self._read(entry.begin, entry.end)
        if self.coded:
            computed = checksum(name, record, data.data)
            if computed != record.crc:
                raise FormatError(
                    f"CRC-32 {computed:08x} where the file says {record.crc:08x}: it is damaged, "
                    "get it again"
                )
        size = width(record.values or record.dtype)
        scales, data = data[:head].view("<f4").copy(), data[head:]
        values, index = data[: count * size].view(f"<u{size}"), data[count * size :]
        claimed, nnz = record.params.get("nnz"), int(np.count_nonzero(values))
        if claimed not in (None, nnz):
            raise FormatError(f"nnz={claimed}, but {nnz} of the stored values are not zero")
        return scales, Encoded(values, index, record.params)

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


def _open(path: Path) -> io.FileIO:
    """The file, for reading; refused unless it is an ordinary one, which a FIFO is not."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return io.FileIO(descriptor, "r")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise FormatError(f"{path} is a device, a pipe or a socket, not a file")


def _counts(record: Record, entry: Entry) -> tuple[int, int]:
    """The bytes of scales in an entry, and its stored values: what the record says of it, checked
    against the entry's size and the shape."""
    head = check_record(record.dtype, record.values, record.shape) if record.values else 0
    if head > entry.nbytes:
        raise FormatError(f"{head} bytes of scales in an entry of {entry.nbytes}")
    size = width(record.values or record.dtype)
    numel = math.prod(element_shape(record.shape, record.dtype))
    return head, find(record.coding).check_entry(numel, record.params, entry.nbytes - head, size)


def _check_tie(name: str, record: Tied, records: dict[str, Record | Tied]) -> None:
    if not isinstance(records.get(record.target), Record):
        raise FormatError(f"tensor {name!r}: tied to {record.target!r}, which is not stored")
    if checksum(name, record) != record.crc:
        raise FormatError(f"tensor {name!r}: the record's CRC-32 is not {record.crc:08x}")


def load(
    path: str | bytes | os.PathLike[str], *, tensors: Iterable[str] | None = None
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
    """What a file holds: ``print`` it for the table; ``nbytes`` is the size of the file, and
    ``metadata`` what ``save(metadata=...)`` or another tool wrote beside the tensors."""

    path: Path
    nbytes: int
    tensors: tuple[TensorSummary, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The table as plain text."""
        from billhook.render import as_text

        return as_text(self.__rich__())

    def __rich__(self) -> Any:
        """The table for rich."""
        numel = sum(each.numel for each in self.tensors if each.nbytes)
        nnz = sum(each.nnz or 0 for each in self.tensors if each.nbytes)
        return table(
            self.tensors,
            f"{self.path.name}: {self.nbytes:,} bytes, {nnz:,} of {numel:,} elements not zero",
        )


def inspect(path: str | bytes | os.PathLike[str]) -> Inspection:
    """What is in a file, tensor by tensor; nonzeros are counted, and CRCs of dense ones checked.

    >>> from billhook import save
    >>> _ = save({"weight": torch.eye(64)}, "eye.billhook.safetensors", encoding="bitmask")
    >>> [(t.name, t.shape, t.nnz, t.coding) for t in inspect("eye.billhook.safetensors").tensors]
    [('weight', (64, 64), 64, 'bitmask')]
    """
    with Reader(path) as file:
        summaries = tuple(_summarise(file, name) for name in file)
        return Inspection(file.path, file.nbytes, summaries, file.metadata)


def _summarise(file: Reader, name: str) -> TensorSummary:
    record = file.record(name)
    if isinstance(record, Tied):
        target = _summarise(file, record.target)
        return TensorSummary(name, target.dtype, target.shape, target.nnz, str(record), 0)
    return TensorSummary(
        *(name, record.type, record.shape, file.nnz(name), record.coding, file.entry_bytes(name))
    )
