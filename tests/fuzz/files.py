"""Files taken apart, changed, and put together again with right checksums, offsets and counts.

So a change reaches the code that must refuse it, instead of the checksum that everything fails at.
"""

import json
import random
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["File", "Tensor", "build", "change", "number", "parse"]

CODINGS = ("dense", "bitmask", "blocks", "relative_index", "entropy", "zip")
DTYPES = (
    "F32",
    "F16",
    "BF16",
    "F64",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "F4",
    "C64",
    "F8_E4M3",
    "F9",
)
VALUES = ("", "", ":I8", ":F16", ":BF16", ":F32", ":I4")
NAMES = (
    "w",
    "b",
    "tied",
    "",
    "a\nb",
    "\x1b[31m",
    "é",
    "x.billhook",
    "__metadata__",
    "@w",
    "program",
)


@dataclass
class Tensor:
    """One tensor: what its record says (None in plain files), and its entry (None if tied)."""

    name: str
    record: str | None
    entry: str | None
    dtype: str
    shape: list[Any]
    data: bytes


@dataclass
class File:
    """A file in parts; ``version`` is None for plain safetensors."""

    version: str | None
    tensors: list[Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


def parse(data: bytes) -> File:
    """The parts of a good file."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    version = metadata.pop("billhook", None)
    records = {k[1:]: metadata.pop(k)[9:] for k in list(metadata) if k.startswith("@")}
    tensors = []
    for name, record in records.items() if version else dict.fromkeys(header).items():
        entry = next((e for e in (name, f"{name}.billhook") if e in header), None)
        fields: Any = header[entry] if entry else {"dtype": "", "shape": [], "data_offsets": [0, 0]}
        begin, end = fields["data_offsets"]
        part = data[start + begin : start + end]
        tensors.append(Tensor(name, record, entry, fields["dtype"], fields["shape"], part))
    return File(version and version.split()[0], tensors, metadata)


def build(file: File, rng: random.Random | None = None) -> bytes:
    """The file's bytes, everything in them consistent but for what was changed; ``rng`` may leave
    one of the repairs out."""
    slip = rng.choice(("count", "offset", "crc", "pad")) if rng and rng.random() < 0.1 else ""
    header: dict[str, Any] = {}
    metadata: dict[str, Any] = dict(file.metadata)
    if file.version is not None:
        count = len({t.name for t in file.tensors}) + (slip == "count")
        metadata = {"billhook": f"{file.version} {count}", **metadata}
    position = 0
    for tensor in file.tensors:
        if tensor.record is not None:
            content = f"{tensor.name}\n{tensor.record}\n".encode("utf-8", "replace") + tensor.data
            metadata[f"@{tensor.name}"] = f"{zlib.crc32(content):08x} {tensor.record}"
        if tensor.entry is not None:
            end = position + len(tensor.data)
            fields = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
            header[tensor.entry] = fields
            position = end
    if slip == "offset" and header:
        assert rng is not None
        offsets = rng.choice(list(header.values()))["data_offsets"]
        offsets[rng.randrange(2)] = number(rng, offsets[0])
    text = json.dumps({"__metadata__": metadata, **header}).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    data = b"".join(tensor.data for tensor in file.tensors if tensor.entry is not None)
    whole = len(text).to_bytes(8, "little") + text + data
    if slip == "crc":
        assert rng is not None
        return flip(rng, whole)
    return whole + b"\0" if slip == "pad" else whole


def number(rng: random.Random, near: Any = 0) -> Any:
    """A number (or what takes the place of one) that a careless reader may stumble over."""
    near = near if type(near) is int else 1
    choices = (
        lambda: near + rng.choice((-2, -1, 1, 2)),
        lambda: near * rng.choice((0, -1, 2, 8, 255, 2**16)),
        lambda: rng.randrange(20),
        lambda: rng.choice((2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64)),
        lambda: near + rng.choice((2**32, 2**64)),
        lambda: rng.choice(
            (-1, -(2**31), -(2**63), True, False, None, 1.5, float(near), "3", [near])
        ),
    )
    return rng.choice(choices)()


def flip(rng: random.Random, data: bytes) -> bytes:
    """The bytes with some of them changed, cut off, doubled or put elsewhere."""
    if not data:
        return rng.randbytes(rng.randrange(9))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(6)
        if kind <= 1 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and changed:
            changed[at] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 3:
            del changed[at : at + rng.choice((1, 1, 4, 16))]
        elif kind == 4:
            changed[at:at] = rng.randbytes(rng.choice((1, 1, 4, 8)))
        else:
            changed[at : at + 4] = changed[-4:]
    return bytes(changed)


def _numbers_in(rng: random.Random, text: str) -> str:
    """The text with one of its numbers changed."""
    digits = [i for i, c in enumerate(text) if c.isdigit() and not text[i - 1 : i].isdigit()]
    if not digits:
        return text + str(number(rng))
    begin = rng.choice(digits)
    end = begin
    while end < len(text) and text[end].isdigit():
        end += 1
    return text[:begin] + str(number(rng, int(text[begin:end]))) + text[end:]


def _record(rng: random.Random, record: str) -> str:
    kind = rng.randrange(8)
    parts = record.split(" ")
    if kind <= 3 or len(parts) < 3:
        return _numbers_in(rng, record)
    if kind == 4:
        parts[0] = rng.choice(CODINGS)
    elif kind == 5:
        parts[1] = rng.choice(DTYPES) + rng.choice(VALUES)
    elif kind == 6:
        parts[2] = "[" + ",".join(
            str(rng.choice((0, 1, 2, 3, 5, 8, 40))) for _ in range(rng.randrange(5))
        )
        parts[2] += "]"
    else:
        parts = (
            parts[:3] + [p for p in parts[3:] if rng.random() < 0.5] + ["nnz=1"] * rng.randrange(2)
        )
    return " ".join(parts)


def change(rng: random.Random, file: File) -> File:
    """Another file: one to three things of this one changed."""
    tensors = [replace(tensor, shape=list(tensor.shape)) for tensor in file.tensors]
    file = File(file.version, tensors, dict(file.metadata))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tensor = rng.choice(file.tensors) if file.tensors else None
        kind = rng.randrange(14)
        if tensor is None or kind == 13:
            file.version = rng.choice((None, "1", "1", "2", "01", ""))
        elif kind <= 3 and tensor.record is not None:
            tensor.record = _record(rng, tensor.record)
        elif kind <= 6:
            tensor.data = flip(rng, tensor.data)
            if tensor.dtype == "U8":
                tensor.shape = [len(tensor.data)]
        elif kind == 7 and tensor.shape:
            at = rng.randrange(len(tensor.shape))
            tensor.shape[at] = number(rng, tensor.shape[at])
        elif kind == 8:
            tensor.dtype = rng.choice(DTYPES)
        elif kind == 9:
            tensor.name = rng.choice(NAMES)
        elif kind == 10:
            tensor.entry = rng.choice((None, tensor.name, f"{tensor.name}.billhook", "other"))
        elif kind == 11:
            tensor.record = rng.choice(("tied w", "tied b", f"tied {tensor.name}", "tied ", None))
        else:
            file.metadata[rng.choice(("a", "@w", "@", "format"))] = rng.choice(
                ("", "pt", "x" * 50, 3)
            )
    return file
