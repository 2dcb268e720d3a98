"""The layout of a file, tensor by tensor, and so its exact size before it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from billhook.errors import ConfigurationError
from billhook.format.container import build_header
from billhook.format.dtypes import width
from billhook.format.record import SUFFIX, Record, Tied, line

__all__ = ["VERSION", "PlannedEntry", "build", "check_metadata", "header_bytes", "user_metadata"]

VERSION = "1"
_OWN = ("billhook", "format")  # metadata that this format writes; keys with an "@" are records
_EMPTY = len(build_header([], {}).rstrip())


@dataclass(frozen=True)
class PlannedEntry:
    """One tensor of a file: its record and the bytes of its entry (0 for a tied one)."""

    name: str
    record: Record | Tied
    nbytes: int = 0


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The metadata; raises ConfigurationError unless a user may write it beside the tensors."""
    if not isinstance(metadata, Mapping | None):
        raise ConfigurationError(
            f"metadata maps strings to strings, and is a {type(metadata).__name__}"
        )
    metadata = dict(metadata or {})
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ConfigurationError(f"metadata maps strings to strings, not {key!r} to {text!r}")
        if key in _OWN or key.startswith("@"):
            raise ConfigurationError(
                f"the metadata key {key!r} is the format's own, as is any that begins with '@': "
                "rename it"
            )
        if any("\ud800" <= character <= "\udfff" for character in key + text):
            raise ConfigurationError(f"the metadata of {key!r} are not valid Unicode")
    return metadata


def user_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of a file's metadata is not the format's own.

    >>> user_metadata({"billhook": "1 0", "author": "me", "@w": "00000000 tied v"})
    {'author': 'me'}
    """
    return {
        key: text for key, text in metadata.items() if key not in _OWN and not key.startswith("@")
    }


def build(
    planned: Sequence[PlannedEntry], user: Mapping[str, str] | None = None
) -> tuple[bytes, list[PlannedEntry]]:
    """The file's header, with the user's metadata, and its entries in the order of their data.

    Plain entries come first, widest elements first, so that every reader finds them aligned.
    """
    entries = [each for each in planned if isinstance(each.record, Record)]
    entries.sort(key=_alignment, reverse=True)
    metadata = {"billhook": f"{VERSION} {len(planned)}"}
    if all(isinstance(each.record, Record) and each.record.plain for each in planned):
        metadata["format"] = "pt"  # what transformers asks of a file it can read by itself
    metadata |= {f"@{each.name}": line(each.record) for each in planned}
    metadata |= user or {}
    return build_header([_fields(each) for each in entries], metadata), entries


def header_bytes(each: PlannedEntry) -> int:
    """The bytes that one tensor adds to the header, without the digits of its offsets.

    >>> dense = PlannedEntry("w", Record("dense", "F32", (2,)), 8)
    >>> coded = PlannedEntry("w", Record("bitmask", "F32", (2,), {"nnz": 1}), 5)
    >>> header_bytes(coded) - header_bytes(dense)
    16
    """
    entries = []
    if isinstance(each.record, Record):
        name, dtype, shape, _ = _fields(each)
        entries = [(name, dtype, shape, 0)]
    header = build_header(entries, {f"@{each.name}": line(each.record)})
    return len(header.rstrip()) - _EMPTY


def _alignment(each: PlannedEntry) -> int:
    record = each.record
    return width(record.dtype) if isinstance(record, Record) and record.plain else 0


def _fields(each: PlannedEntry) -> tuple[str, str, tuple[int, ...], int]:
    record = each.record
    assert isinstance(record, Record)
    if record.plain:
        return each.name, record.dtype, record.shape, each.nbytes
    return each.name + SUFFIX, "U8", (each.nbytes,), each.nbytes
