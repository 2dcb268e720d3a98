"""A second reader, written from SPEC.md alone: no import from billhook, no numpy, obvious loops."""

import json
import math
import struct
import zlib

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
Shape = tuple[int, ...]
Params = dict[str, int]
K = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)


def read(file: bytes) -> dict[str, tuple[str, Shape, bytes]]:
    """``{name: (dtype, shape, row-major bytes)}`` of a version 1 file."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    metadata = header.pop("__metadata__")
    assert metadata["billhook"].split(" ")[0] == "1"
    tensors: dict[str, tuple[str, Shape, bytes]] = {}
    ties: dict[str, str] = {}
    for key, text in metadata.items():
        if not key.startswith("@"):
            continue
        name, (crc, record) = key[1:], text.split(" ", 1)
        if record.startswith("tied "):
            assert zlib.crc32(f"{name}\n{record}\n".encode()) == int(crc, 16)
            ties[name] = record[5:]
            continue
        coding, kind, brackets, *pairs = record.split(" ")
        dtype, _, values = kind.partition(":")
        plain = coding == "dense" and not values
        begin, end = header[name if plain else name + ".billhook"]["data_offsets"]
        data = file[start + begin : start + end]
        assert zlib.crc32(f"{name}\n{record}\n".encode() + data) == int(crc, 16)
        shape = tuple(int(part) for part in brackets[1:-1].split(",") if part)
        params = {k: int(v) for k, v in (pair.split("=") for pair in pairs)}
        tensors[name] = (dtype, shape, expand(coding, kind, shape, params, data))
    return tensors | {name: tensors[other] for name, other in ties.items()}


def expand(coding: str, kind: str, shape: Shape, params: Params, data: bytes) -> bytes:
    dtype, _, values = kind.partition(":")
    n, width = math.prod(shape), BYTES[values or dtype]
    scales = struct.unpack_from(f"<{shape[0]}f", data) if values == "I8" else ()
    data = data[4 * len(scales) :]
    stored = params.get("stored", params.get("nnz", n))
    index = data[stored * width :]
    pieces = [data[i * width : (i + 1) * width] for i in range(stored)]
    codings = {"bitmask": bitmask, "blocks": blocks} | {
        "relative_index": relative_index,
        "entropy": entropy,
    }
    places = range(n) if coding == "dense" else codings[coding](index, shape, params)
    elements = [bytes(width)] * n
    for place, piece in zip(places, pieces, strict=True):
        elements[place] = piece
    if values != "I8":
        assert not values, "this reader leaves out the conversion of floats"
        return b"".join(elements)
    row = n // shape[0] if n else 1
    single = struct.Struct("<f")
    return b"".join(
        single.pack(struct.unpack("b", e)[0] * scales[i // row]) for i, e in enumerate(elements)
    )


def bits_of(data: bytes, width: int, count: int) -> list[int]:
    number = int.from_bytes(data, "little")
    return [number >> (i * width) & ((1 << width) - 1) for i in range(count)]


def bitmask(index: bytes, shape: Shape, params: Params) -> list[int]:
    return [i for i in range(math.prod(shape)) if index[i // 8] >> (i % 8) & 1]


def blocks(index: bytes, shape: Shape, params: Params) -> list[int]:
    n = math.prod(shape)
    columns = shape[1] if len(shape) > 1 and n else 1
    inner = math.prod(shape[2:]) if len(shape) > 1 and n else n
    across = [-(-columns // params["columns"]), -(-inner // params["inner"])]
    places = []
    for t in range(n):
        i, j, k = t // (columns * inner), t // inner % columns, t % inner
        block = (i // params["rows"] * across[0] + j // params["columns"]) * across[1]
        block += k // params["inner"]
        if index[block // 8] >> (block % 8) & 1:
            places.append(t)
    return places


def relative_index(index: bytes, shape: Shape, params: Params) -> list[int]:
    place, places = -1, []
    for gap in bits_of(index, params["bits"], params["stored"]):
        place += gap + 1
        places.append(place)
    return places


def share(e: int) -> int:
    e = max(-120, min(120, e))
    h, f = e // 8, e % 8
    a, b = K[f] << max(h, 0), 65536 << max(-h, 0)
    return min(max((a << 14) // (a + b), 1), 16383)


def entropy(index: bytes, shape: Shape, params: Params) -> list[int]:
    n = math.prod(shape)
    rows, columns = shape[:2] if len(shape) > 1 and n else (1, 1)
    inner = math.prod(shape[2:]) if len(shape) > 1 and n else n
    log_lanes, row_bits, row_step, column_bits, column_step, base = index[:6]
    cut = 6 + (rows * row_bits + 7) // 8
    row = bits_of(index[6:cut], row_bits, rows)
    column = bits_of(index[cut:], column_bits, columns)
    cut += (columns * column_bits + 7) // 8
    lanes = 1 << log_lanes
    states = list(struct.unpack_from(f"<{lanes}I", index, cut))
    position, places = cut + 4 * lanes, []
    for t in range(n):
        e = base - 120 + row_step * row[t // (columns * inner)]
        p = share(e + column_step * column[t // inner % columns])
        x = states[t % lanes]
        slot, high = x % 16384, x >> 14
        if slot < p:
            places.append(t)
            x = p * high + slot
        else:
            x = (16384 - p) * high + slot - p
        if x < 65536:
            x = x << 16 | int.from_bytes(index[position : position + 2], "little")
            position += 2
        states[t % lanes] = x
    assert set(states) == {65536}
    assert not any(index[position:])
    return places
