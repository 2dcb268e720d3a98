"""What a file will hold, tensor by tensor, and thereby its exact size before it is written."""

from collections.abc import Sequence
from dataclasses import dataclass

from billhook.format.container import build_header
from billhook.format.dtypes import width
from billhook.format.record import SUFFIX, Record, Tied, line

__all__ = ["VERSION", "Stored", "build", "header_bytes"]

VERSION = "1"
_EMPTY = len(build_header([], {}).rstrip())


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: its record and the bytes of its entry (0 for a tied one)."""

    name: str
    record: Record | Tied
    nbytes: int = 0


def build(stored: Sequence[Stored]) -> tuple[bytes, list[Stored]]:
    """The file's header, and its entries in the order of their data.

    Plain entries come first, widest elements first, so that every reader finds them aligned.
    """
    entries = [each for each in stored if isinstance(each.record, Record)]
    entries.sort(key=_alignment, reverse=True)
    metadata = {"billhook": f"{VERSION} {len(stored)}"}
    if all(isinstance(each.record, Record) and each.record.plain for each in stored):
        metadata["format"] = "pt"  # what transformers asks of a file it can read by itself
    metadata |= {f"@{each.name}": line(each.record) for each in stored}
    return build_header([_fields(each) for each in entries], metadata), entries


def header_bytes(each: Stored) -> int:
    """What one tensor adds to the header, but for the digits of its offsets.

    >>> dense = Stored("w", Record("dense", "F32", (2,)), 8)
    >>> coded = Stored("w", Record("bitmask", "F32", (2,), {"nnz": 1}), 5)
    >>> header_bytes(coded) - header_bytes(dense)
    16
    """
    name, dtype, shape, _ = _fields(each)
    entry = build_header([(name, dtype, shape, 0)], {f"@{each.name}": line(each.record)})
    return len(entry.rstrip()) - _EMPTY


def _alignment(each: Stored) -> int:
    record = each.record
    return width(record.dtype) if isinstance(record, Record) and record.plain else 0


def _fields(each: Stored) -> tuple[str, str, tuple[int, ...], int]:
    record = each.record
    assert isinstance(record, Record)
    if record.plain:
        return each.name, record.dtype, record.shape, each.nbytes
    return each.name + SUFFIX, "U8", (each.nbytes,), each.nbytes
