"""The vectors beside this file (programs, inputs, torch's outputs), and files made from them."""

import json
import zlib
from pathlib import Path

import numpy as np

import billhook_runtime

VECTORS = Path(__file__).parent / "vectors"
TOLERANCE = 1e-5
NAMES = sorted(path.name.split(".")[0] for path in VECTORS.glob("*.safetensors"))


def path_of(name):
    return VECTORS / f"{name}.billhook.safetensors"


def arrays(name, way):
    """The arrays "in" or "out" of a vector, by the names of the program's inputs or outputs."""
    begin = f"{name}.{way}."
    found = sorted(VECTORS.glob(f"{begin}*.npy"))
    return {path.name[len(begin) : -4]: np.load(path) for path in found}


def vector(name):
    """Path, input and output of a program that has one of each."""
    (x,), (y,) = (arrays(name, way).values() for way in ("in", "out"))
    return path_of(name), x, y


def near(given, wanted):
    assert given.shape == wanted.shape, (given.shape, wanted.shape)
    error = np.linalg.norm(given - wanted) / max(np.linalg.norm(wanted), 1e-30)
    assert error <= TOLERANCE, f"a relative error of {error:.1e}"


def outputs_of(program, result):
    """By name, also where there is one."""
    return result if len(program.outputs) > 1 else dict.fromkeys(program.outputs, result)


def near_all(program, result, wanted):
    given = outputs_of(program, result)
    assert given.keys() == wanted.keys(), (list(given), list(wanted))
    for each in wanted:
        near(given[each], wanted[each])


def same(program, result, again):
    pairs = outputs_of(program, result), outputs_of(program, again)
    return all(np.array_equal(pairs[0][name], pairs[1][name]) for name in program.outputs)


def refused(call, words, case=""):
    found = None
    try:
        call()
    except billhook_runtime.ProgramError as error:
        found = str(error)
    assert found is not None, f"nothing refused what should be refused: {case or words}"
    assert words in found, (found, case)


def text_of(path):
    """A program's text."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    first, last = json.loads(data[8:start])["program"]["data_offsets"]
    return data[start + first : start + last]


def parts_of(path):
    """A file's records and bytes by the names of its entries, and the rest of its metadata."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata, parts = header.pop("__metadata__"), {}
    for name, entry in header.items():
        first, last = entry.pop("data_offsets")
        parts[name] = (entry, data[start + first : start + last])
    return metadata, parts


def head(metadata, sizes):
    """The beginning of a file: its header, of entries and how many bytes each has."""
    header, position = {"__metadata__": metadata}, 0
    for name, (entry, size) in sizes.items():
        header[name] = {**entry, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def joined(metadata, parts):
    """The file again, its offsets made new."""
    sizes = {name: (entry, len(part)) for name, (entry, part) in parts.items()}
    return head(metadata, sizes) + b"".join(part for _, part in parts.values())


def set_record(metadata, name, record, part):
    """What the file says of a tensor, with the right checksum."""
    crc = zlib.crc32(f"{name}\n{record}\n".encode() + part)
    metadata[f"@{name}"] = f"{crc:08x} {record}"


def count_records(metadata, more):
    """Says that there are so many more records."""
    version, count = metadata["billhook"].split(" ")
    metadata["billhook"] = f"{version} {int(count) + more}"


def rebuilt(path, change, room=0):
    """The file with its program's text changed and its checksums right; with a tensor of ``room``
    bytes more, since a file may ask for memory in proportion to its size."""
    metadata, parts = parts_of(path)
    if room:
        set_record(metadata, "room", f"dense U8 [{room}]", bytes(room))
        parts["room"] = ({"dtype": "U8", "shape": [room]}, bytes(room))
        count_records(metadata, 1)
    text = json.loads(parts["program"][1])
    change(text)
    part = json.dumps(text).encode()
    set_record(metadata, "program", f"dense U8 [{len(part)}]", part)
    parts["program"] = ({"dtype": "U8", "shape": [len(part)]}, part)
    return joined(metadata, parts)


def run_tests(module):
    """Those of a file, one after another."""
    for name, test in list(module.items()):
        if name.startswith("test_"):
            test()
            print("ok", name)
