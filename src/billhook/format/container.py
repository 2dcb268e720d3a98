"""The safetensors container: 8 bytes of header length, a JSON header, one buffer of data.

Read here rather than with the safetensors package so that every defect of a hostile file is a
``FormatError`` that names tensor and offset, and so that the size of a file is known to the byte
before it is written. ``tests/format/test_files.py`` reads billhook's files with that package.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from billhook.errors import ConfigurationError, FormatError
from billhook.format.dtypes import DTYPES, check_shape, tensor_bytes

__all__ = ["LENGTH", "Entry", "build_header", "header_length", "parse_header"]

LENGTH = 8  # bytes that say how long the header is
MAX_HEADER = 100_000_000  # the safetensors package's own limit
_SURROGATE = re.compile("[\ud800-\udfff]")
_ALIGNMENT = 8
_MAX = 2**63


@dataclass(frozen=True)
class Entry:
    """One tensor of the container; ``begin`` and ``end`` are offsets in the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes between begin and end."""
        return self.end - self.begin


def build_header(
    entries: Sequence[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str]
) -> bytes:
    """Length and JSON of a file that holds ``(name, dtype, shape, nbytes)`` back to back.

    Padded with spaces so that the data begins at a multiple of 8.

    >>> build_header([("w", "F32", (2,), 8)], {})[8:]
    b'{"__metadata__":{},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, dtype, shape, nbytes in entries:
        offsets = [position, position + nbytes]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ConfigurationError(
            f"the names, shapes and metadata of {len(entries)} tensors take a header of {len(text)}"
            f" bytes, and no reader opens a file with more than {MAX_HEADER}: save the tensors in "
            "several files, or under shorter names"
        )
    return len(text).to_bytes(LENGTH, "little") + text


def header_length(first: bytes, file_bytes: int) -> int:
    """Bytes of a file's header, from its first eight; never more than the file has."""
    if len(first) < LENGTH:
        raise FormatError(f"{file_bytes} bytes are too few for a safetensors file; is it cut off?")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER:
        raise FormatError(
            f"the header claims {length} bytes, more than the {MAX_HEADER} that any reader takes: "
            "it is not a safetensors file"
        )
    if length > file_bytes - LENGTH:
        raise FormatError(
            f"the header claims {length} bytes in a file of {file_bytes}; the file is cut off or "
            "not a safetensors file"
        )
    return length


def parse_header(text: bytes, file_bytes: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and metadata of a file of so many bytes from its header.

    Raises FormatError unless the entries cover the data exactly: none overlap, none is missing.
    """
    try:
        hook = _no_surrogates if b"\\u" in text else _no_duplicates  # UTF-8 itself has none
        header = json.loads(text.decode(), object_pairs_hook=hook)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header at byte {LENGTH} is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FormatError(f"the header at byte {LENGTH} is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("__metadata__ must map strings to strings")
    start = LENGTH + len(text)
    entries = [_entry(name, fields, start) for name, fields in header.items()]
    _check_cover(entries, start, file_bytes)
    return {entry.name: entry for entry in entries}, metadata


def _no_surrogates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in pairs:
        if any(isinstance(text, str) and _SURROGATE.search(text) for text in (key, value)):
            raise FormatError(f"the header holds text that is not valid Unicode near {key!r}")
    return _no_duplicates(pairs)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"the header holds the name {twice!r} twice")
    return result


def _integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < _MAX for v in value)


def _entry(name: str, fields: Any, start: int) -> Entry:
    """One checked entry; what the header claims is compared with the offsets, never trusted.

    A dtype that this release does not know is an error of the tensor when it is read, not of the
    file: the others stay readable.
    """
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"tensor {name!r}: expected dtype, shape and data_offsets in the header")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str):
        raise FormatError(f"tensor {name!r}: its dtype in the header is not a name")
    if not _integers(shape) or not _integers(offsets) or len(offsets) != 2:
        raise FormatError(f"tensor {name!r}: shape and data_offsets must be lists of sizes")
    begin, end = offsets
    try:
        check_shape(tuple(shape), dtype)
        size = tensor_bytes(dtype, tuple(shape)) if dtype in DTYPES else end - begin
    except FormatError as error:
        raise FormatError(f"tensor {name!r} at byte {start + begin}: {error}") from error
    if begin > end or size != end - begin:
        raise FormatError(
            f"tensor {name!r} at byte {start + begin}: {dtype} {shape} needs {size} bytes, the "
            f"offsets {offsets} hold {end - begin}"
        )
    return Entry(name, dtype, tuple(shape), start + begin, start + end)


def _check_cover(entries: Sequence[Entry], start: int, size: int) -> None:
    position = start
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise FormatError(
                f"tensor {entry.name!r} begins at byte {entry.begin}, not at {position} where the "
                "one before it ends; entries may neither overlap nor leave holes"
            )
        position = entry.end
    if position != size:
        raise FormatError(
            f"the tensors end at byte {position}, the file at {size}: it is cut off or has bytes "
            "added"
        )
