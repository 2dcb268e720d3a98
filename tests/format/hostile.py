"""Bad files, made by hand: what each is, and its bytes. Checksums are right unless they are the
point, so that what is wrong reaches the code that must refuse it."""

import json
import struct
import zlib
from typing import Any

import numpy as np

HUGE = 2**60
BITMASK = b"\x01\x00\x00\x00" + b"\x05\x00"  # one value and a mask of 2 bits set, 16 elements
ONE = struct.pack("<f", 1.0)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + data


def entry(nbytes: int, begin: int = 0, dtype: str = "U8", shape: Any = None) -> dict[str, Any]:
    size = [nbytes] if shape is None else shape
    return {"dtype": dtype, "shape": size, "data_offsets": [begin, begin + nbytes]}


def coded(record: str, data: bytes, name: str = "w", version: str = "1 1") -> bytes:
    """A file of one coded tensor with a right checksum."""
    crc = zlib.crc32(f"{name}\n{record}\n".encode() + data)
    metadata = {"billhook": version, f"@{name}": f"{crc:08x} {record}"}
    plain = record.startswith("dense") and ":" not in record
    entries = {name if plain else name + ".billhook": entry(len(data))}
    return safetensors({"__metadata__": metadata, **entries}, data)


def rans(head: list[int], stream: bytes) -> bytes:
    return bytes(head) + stream


def metadata(**records: str) -> dict[str, str]:
    return {"billhook": f"1 {len(records)}"} | {f"@{name}": text for name, text in records.items()}


IDLE = struct.pack("<I", 1 << 16)
FLAT = [0, 0, 1, 0, 1, 120]


def corpus() -> dict[str, bytes]:
    return _headers() | _records() | _coded()


def _headers() -> dict[str, bytes]:
    w = entry(8, dtype="F32", shape=[2])
    return {
        "empty file": b"",
        "seven bytes": b"\0" * 7,
        "header longer than the file": safetensors(b"{}", length=3),
        "header of 2**64 - 1 bytes": safetensors(b"{}", length=2**64 - 1),
        "no JSON": safetensors(b"pickle!!"),
        "JSON in UTF-16": safetensors("{}".encode("utf-16")),
        "JSON nested too deep": safetensors(b"[" * 200_000),
        "a number of 10,000 digits": safetensors(b'{"w":' + b"9" * 10_000 + b"}"),
        "header not an object": safetensors([1]),
        "metadata not strings": safetensors({"__metadata__": {"billhook": 1}}),
        "metadata a list": safetensors({"__metadata__": []}),
        "a name twice": safetensors(
            b'{"w":' + json.dumps(w).encode() + b',"w":' + json.dumps(w).encode() + b"}", b"\0" * 8
        ),
        "half a surrogate pair": safetensors(
            b'{"\\ud800":' + json.dumps(w).encode() + b"}", bytes(8)
        ),
        "an entry that is a number": safetensors({"w": 3}),
        "an entry with a field too many": safetensors({"w": w | {"x": 1}}, bytes(8)),
        "an unknown dtype": safetensors({"w": w | {"dtype": "F33"}}, bytes(8)),
        "a dtype that is a list": safetensors({"w": w | {"dtype": ["F32"]}}, bytes(8)),
        "a negative size": safetensors({"w": w | {"shape": [-2]}}, bytes(8)),
        "a size that is a float": safetensors({"w": w | {"shape": [2.0]}}, bytes(8)),
        "a size that is true": safetensors({"w": w | {"shape": [True, 2]}}, bytes(8)),
        "three offsets": safetensors({"w": w | {"data_offsets": [0, 8, 8]}}, bytes(8)),
        "offsets backwards": safetensors({"w": w | {"data_offsets": [8, 0]}}, bytes(8)),
        "offsets beyond the file": safetensors({"w": entry(8, 2**40, "F32", [2])}, bytes(8)),
        "offsets of 2**70": safetensors({"w": w | {"data_offsets": [2**70, 2**70 + 8]}}, bytes(8)),
        "shape overflows": safetensors({"w": w | {"shape": [2**32, 2**32]}}, bytes(8)),
        "shape overflows beside a zero": safetensors({"w": entry(0, 0, "F32", [2**62, 2**62, 0])}),
        "a hundred dimensions": safetensors({"w": entry(4, 0, "F32", [1] * 100)}, ONE),
        "overlapping entries": safetensors({"a": w, "b": w | {"data_offsets": [4, 12]}}, bytes(12)),
        "a hole between entries": safetensors({"a": w, "b": entry(8, 12, "F32", [2])}, bytes(20)),
        "bytes after the last entry": safetensors({"w": w}, bytes(9)),
        "coded names without metadata": safetensors({"w.billhook": entry(6)}, BITMASK),
    }


def _records() -> dict[str, bytes]:
    w = entry(8, dtype="F32", shape=[2])
    return {
        "version 2": coded("bitmask F32 [16] nnz=1", BITMASK, version="2 1"),
        "version 1.0": coded("bitmask F32 [16] nnz=1", BITMASK, version="1.0 1"),
        "fewer records than promised": coded(
            "bitmask F32 [16] nnz=2", ONE + BITMASK, version="1 2"
        ),
        "no number of records": coded("bitmask F32 [16] nnz=2", ONE + BITMASK, version="1"),
        "a record without the version": safetensors(
            {"__metadata__": {"@v": "00000000 tied w"}, "w": w}, bytes(8)
        ),
        "a record without an entry": safetensors(
            {"__metadata__": metadata(w="00000000 dense F32 [0]")}
        ),
        "an entry without a record": safetensors({"__metadata__": metadata(), "w": w}, bytes(8)),
        "a record that is not ours": safetensors({"__metadata__": metadata(w="hello"), "w": w}),
        "tied to nothing": safetensors({"__metadata__": metadata(w="00000000 tied v")}),
        "tied in a circle": safetensors(
            {"__metadata__": metadata(w="00000000 tied v", v="00000000 tied w")}
        ),
        "tied to itself": safetensors({"__metadata__": metadata(w="00000000 tied w")}),
        "dense record of another shape": coded("dense F32 [2]", bytes(8)),
        "coded entry that is not U8": safetensors(
            {"__metadata__": metadata(w="00000000 bitmask F32 [2] nnz=2"), "w.billhook": w},
            bytes(8),
        ),
        "a wrong checksum": safetensors(
            {"__metadata__": metadata(w="00000000 bitmask F32 [16] nnz=1"), "w.billhook": entry(6)},
            BITMASK,
        ),
    }


NAN = struct.pack("<f", float("nan"))
INT8 = b"\x01" + b"\x01"  # one value, a mask of one bit
MANY = HUGE // 1024
#: Records that are not what they say, each with its entry.
Records = dict[str, tuple[str, bytes]]
MASKS: Records = {
    "an unknown coding": ("zip F32 [16] nnz=1", BITMASK),
    "an unknown dtype in a record": ("bitmask F33 [16] nnz=1", BITMASK),
    "a number with a leading zero": ("bitmask F32 [16] nnz=01", BITMASK),
    "a number of 40 digits": (f"bitmask F32 [16] nnz={10**39}", BITMASK),
    "a parameter twice": ("bitmask F32 [16] nnz=1 nnz=1", BITMASK),
    "a parameter too many": ("bitmask F32 [16] nnz=1 bits=4", BITMASK),
    "no parameter": ("bitmask F32 [16]", BITMASK),
    "dense with a parameter": ("dense F32:F16 [2,2] nnz=4", bytes(8)),
    "a stored zero that nnz counts": ("bitmask F32 [16] nnz=1", bytes(4) + b"\1\0"),
    "padding that nnz counts": (
        "relative_index F32 [4] nnz=2 stored=2 bits=2",
        ONE + bytes(4) + b"\4",
    ),
    "more bits than values": ("bitmask F32 [16] nnz=1", BITMASK),
    "fewer bits than values": ("bitmask F32 [16] nnz=1", ONE + b"\0\0"),
    "bits beyond the tensor": ("bitmask F32 [9] nnz=1", ONE + b"\0\x80"),
    "nnz above the elements": ("bitmask F32 [2] nnz=3", bytes(13)),
    "a bitmask of 2**60 elements": (f"bitmask F32 [{HUGE}] nnz=1", BITMASK),
    "shape and record overflow": (f"bitmask F32 [{2**62},{2**62},0] nnz=0", b""),
    "many dimensions in a record": ("bitmask F32 [" + "1," * 99 + "1] nnz=1", ONE + b"\x01"),
}
BLOCKS: Records = {
    "blocks for 2**60 elements": (
        f"blocks F32 [{HUGE}] nnz=1 stored=1 rows=1 columns=1 inner=256 blocks=8",
        ONE + b"\1",
    ),
    "a block of 2**60 elements": (
        f"blocks F32 [{HUGE}] nnz=1 stored=1 rows=1 columns=1 inner={HUGE} blocks=1",
        ONE + b"\1",
    ),
    "a block of 3 elements": (
        "blocks F32 [3] nnz=3 stored=3 rows=1 columns=1 inner=3 blocks=1",
        ONE * 3 + b"\1",
    ),
    "blocks of no elements": (
        "blocks F32 [1] nnz=1 stored=1 rows=0 columns=1 inner=1 blocks=1",
        ONE + b"\1",
    ),
    "more blocks than the shape has": (
        "blocks F32 [4] nnz=2 stored=2 rows=1 columns=1 inner=2 blocks=3",
        ONE * 2 + b"\1",
    ),
    "fewer blocks than the shape has": (
        "blocks F32 [2,4] nnz=1 stored=1 rows=1 columns=4 inner=2 blocks=1",
        ONE + b"\1",
    ),
    "blocks of other elements than there are": (
        "blocks F32 [4] nnz=1 stored=1 rows=1 columns=1 inner=2 blocks=2",
        ONE + b"\1",
    ),
    "bits beyond the blocks": (
        "blocks F32 [4] nnz=2 stored=2 rows=1 columns=1 inner=2 blocks=2",
        ONE * 2 + b"\5",
    ),
}
GAPS: Records = {
    "gaps beyond the end": (
        "relative_index F32 [16] nnz=2 stored=2 bits=4",
        ONE * 2 + b"\xff",
    ),
    "gaps end too early": ("relative_index F32 [16] nnz=1 stored=1 bits=2", ONE + b"\0"),
    "gaps of 1 bit": ("relative_index F32 [1] nnz=1 stored=1 bits=1", ONE + b"\0"),
    "gaps of 0 bits": ("relative_index F32 [1] nnz=1 stored=1 bits=0", ONE),
    "gaps of 64 bits": ("relative_index F32 [1] nnz=1 stored=1 bits=64", ONE + bytes(8)),
    "gaps for 2**60 elements": (
        f"relative_index F32 [{HUGE}] nnz=1 stored=1 bits=8",
        ONE + b"\0",
    ),
    "stored above the elements": (
        "relative_index F32 [1] nnz=1 stored=2 bits=4",
        ONE * 2 + b"\0",
    ),
    "stored below nnz": ("relative_index F32 [4] nnz=2 stored=1 bits=4", ONE + b"\0"),
    "2**60 stored values": (
        f"relative_index F32 [{MANY}] nnz={MANY} stored={MANY} bits=8",
        ONE + b"\0",
    ),
}
ENTROPY: Records = {
    "entropy for 2**60 elements": (f"entropy F32 [{HUGE}] nnz=0", rans(FLAT, IDLE)),
    "entropy: 2**60 rows of nothing": (f"entropy F32 [{HUGE},0] nnz=1", rans(FLAT, IDLE)),
    "entropy: no header": ("entropy F32 [8] nnz=0", b"\0\0"),
    "entropy: header not valid": ("entropy F32 [8] nnz=0", rans([9, 0, 1, 0, 1, 120], IDLE)),
    "entropy: classes of 6 bits": ("entropy F32 [2,4] nnz=0", rans([0, 6, 1, 0, 1, 120], IDLE)),
    "entropy: a step of 3": (
        "entropy F32 [2,4] nnz=0",
        rans([0, 1, 3, 0, 1, 120], b"\0" + IDLE),
    ),
    "entropy: classes cut off": ("entropy F32 [64,4] nnz=0", rans([0, 5, 1, 0, 1, 120], IDLE)),
    "entropy: fewer lanes than named": (
        "entropy F32 [8] nnz=0",
        rans([8, 0, 1, 0, 1, 120], IDLE),
    ),
    "entropy: a state below 2**16": ("entropy F32 [8] nnz=0", rans(FLAT, b"\xff\xff\0\0")),
    "entropy: words cut off": ("entropy F32 [80] nnz=0", rans(FLAT, IDLE)),
    "entropy: ends in no start": ("entropy F32 [2] nnz=0", rans(FLAT, b"\0\0\0\x7f")),
    "entropy: bytes left over": ("entropy F32 [0] nnz=0", rans(FLAT, IDLE + b"\0")),
    "entropy: other nnz": ("entropy F32 [0] nnz=1", ONE + rans(FLAT, IDLE)),
}
VALUES: Records = {
    "int8 of one dimension": ("bitmask F32:I8 [8] nnz=1", ONE + INT8),
    "int8 of integers": ("bitmask I32:I8 [1,8] nnz=1", ONE + INT8),
    "int8 without room for scales": ("bitmask F32:I8 [9,1] nnz=0", b"\0\0"),
    "a NaN scale": ("bitmask F32:I8 [1,8] nnz=1", NAN + INT8),
    "a negative scale": ("bitmask F32:I8 [1,8] nnz=1", struct.pack("<f", -1.0) + INT8),
    "an infinite scale": ("bitmask F32:I8 [1,8] nnz=1", struct.pack("<f", np.inf) + INT8),
    "values wider than the dtype": ("bitmask F16:F32 [1,8] nnz=1", ONE + b"\x01"),
    "values as wide as the dtype": ("dense F32:F32 [1,1]", ONE),
    "unknown values": ("bitmask F32:I4 [1,8] nnz=1", ONE + INT8),
    "int8 with 2**60 scales": (f"bitmask F32:I8 [{HUGE},0] nnz=0", b""),
}


def _coded() -> dict[str, bytes]:
    records = MASKS | BLOCKS | GAPS | ENTROPY | VALUES
    return {what: coded(record, data) for what, (record, data) in records.items()}
