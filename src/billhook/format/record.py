"""The record of a tensor: one line of text in the file's metadata that says how it is stored.

    0a1b2c3d bitmask F32 [64,64] nnz=410
    0a1b2c3d entropy F32:I8 [64,64] nnz=407
    0a1b2c3d tied encoder.weight

The first eight characters are the CRC-32 of name, newline, the rest of the line, newline, data.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from billhook.errors import FormatError

__all__ = ["SUFFIX", "Record", "Tied", "checksum", "is_record", "line", "parse"]

SUFFIX = ".billhook"
"""Ends the entry name of every tensor that is not stored as a plain safetensors tensor."""

_LINE = re.compile(
    r"([0-9a-f]{8}) ([a-z_0-9]+) ([A-Z0-9_]+)(?::([A-Z0-9_]+))? \[([0-9,]*)\]"
    r"((?: [a-z]+=[0-9]+)*)"
)
_TIED = re.compile(r"([0-9a-f]{8}) tied (.*)", re.DOTALL)
_MAX_DIGITS = 19  # every honest number is below 2**63


@dataclass(frozen=True)
class Record:
    """How one tensor is stored: ``crc`` guards the rest of the record and the data."""

    coding: str
    dtype: str
    shape: tuple[int, ...]
    params: Mapping[str, int] = field(default_factory=dict)
    values: str = ""
    crc: int = 0

    @property
    def plain(self) -> bool:
        """Whether the entry is an ordinary safetensors tensor that any reader understands."""
        return self.coding == "dense" and not self.values

    @property
    def type(self) -> str:
        """The dtype, and after a colon that of the stored values where it is another."""
        return f"{self.dtype}:{self.values}" if self.values else self.dtype

    def __str__(self) -> str:
        """The line without its checksum.

        >>> str(Record("bitmask", "F32", (64, 64), {"nnz": 410}))
        'bitmask F32 [64,64] nnz=410'
        """
        shape = ",".join(map(str, self.shape))
        params = "".join(f" {key}={value}" for key, value in self.params.items())
        return f"{self.coding} {self.type} [{shape}]{params}"


@dataclass(frozen=True)
class Tied:
    """Another name of the tensor ``target``, which is stored once."""

    target: str
    crc: int = 0

    def __str__(self) -> str:
        """The line without its checksum."""
        return f"tied {self.target}"


def checksum(name: str, record: Record | Tied, *data: bytes | memoryview) -> int:
    """CRC-32 of the name, the record's line and the data: a flipped bit in any of them shows."""
    crc = zlib.crc32(f"{name}\n{record}\n".encode())
    for part in data:
        crc = zlib.crc32(part, crc)
    return crc


def line(record: Record | Tied) -> str:
    """The record as the file holds it, checksum first."""
    return f"{record.crc:08x} {record}"


def is_record(key: str, text: str) -> bool:
    """Whether a key and text of a file's metadata can only be a record.

    >>> is_record("@w", "0a1b2c3d dense F32 [2]"), is_record("@author", "me")
    (True, False)
    """
    return key.startswith("@") and bool(_TIED.fullmatch(text) or _LINE.fullmatch(text))


def parse(name: str, text: str) -> Record | Tied:
    """Read a record's line; it must be exactly what ``line`` writes."""
    if tied := _TIED.fullmatch(text):
        return Tied(tied[2], int(tied[1], 16))
    found = _LINE.fullmatch(text)
    if found is None:
        raise FormatError(f"tensor {name!r}: the record {text[:200]!r} is not one of billhook's")
    crc, coding, dtype, values, shape, params = found.groups()
    numbers = [part for part in shape.split(",") if part] if shape else []
    pairs = [pair.split("=") for pair in params.split()]
    if any(len(digits) > _MAX_DIGITS for digits in [*numbers, *(value for _, value in pairs)]):
        raise FormatError(f"tensor {name!r}: the record {text[:200]!r} has a number above 2**63")
    counts = {key: int(value) for key, value in pairs}
    record = Record(coding, dtype, tuple(map(int, numbers)), counts, values or "", int(crc, 16))
    if line(record) != text:
        raise FormatError(f"tensor {name!r}: the record {text[:200]!r} is not in canonical form")
    return record
