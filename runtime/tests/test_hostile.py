"""Files that must be refused, wherever they are opened: ``make runtime-test``.

By Python, or by runtime/tests/open_files.c where its command is the argument: a runtime for another
processor, in an emulator.
"""

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from hostile_steps import BIG, HOSTILE_STEPS
from vectors import (
    NAMES,
    count_records,
    head,
    joined,
    parts_of,
    path_of,
    rebuilt,
    run_tests,
    set_record,
    text_of,
)

import billhook_runtime

COMMAND = sys.argv[1:]
OPENED = "opened and ran"
AT_ONCE = 500  # files that one process opens


def zeros(port):
    """One sample."""
    return np.zeros((*port.shape[: port.axis], 1, *port.shape[port.axis :]), port.dtype)


def by_python(paths):
    """What becomes of each file."""
    for path in paths:
        try:
            program = billhook_runtime.load(path)
            program(*map(zeros, program.inputs.values()))
            yield OPENED
        except (billhook_runtime.ProgramError, MemoryError) as error:
            yield str(error)


def by_command(paths):
    """The same, by C."""
    for first in range(0, len(paths), AT_ONCE):
        yield from command(*map(str, paths[first : first + AT_ONCE]))


def command(*arguments):
    """The lines that it prints."""
    done = subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
    return done.stdout.decode(errors="replace").splitlines()


opened = by_command if COMMAND else by_python


def pointer_bits():
    return int(command()[0]) if COMMAND else 8 * ctypes.sizeof(ctypes.c_void_p)


def found(files):
    """What becomes of each file, given as its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(index) for index in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        return list(opened(paths))


def check(cases):
    """Of cases (file, words, what it is): the words are in what is said of the file."""
    cases = list(cases)
    said = found([data for data, *_ in cases])
    for (_, words, case), text in zip(cases, said, strict=True):
        assert words in text, (text, words, case)


def test_hostile_texts():
    path = path_of("fused")
    check([(rebuilt(path, lambda text: None), OPENED, "unchanged")])
    changes = {
        "outside of its buffer": [
            lambda t: t["run"].update(workspace=100),
            lambda t: t["run"]["steps"][0]["x"].__setitem__(1, BIG),
            lambda t: t["run"]["steps"][0]["y"].__setitem__(1, BIG),
            lambda t: t["run"]["steps"][0]["y"].__setitem__(2, BIG),
            lambda t: t["run"]["steps"][0].update(height=BIG),
            lambda t: t["outputs"][0].update(shape=[1]),
        ],
        "writes to an input": [lambda t: t["run"]["steps"][0]["y"].__setitem__(0, 1)],
        "does not exist": [lambda t: t["run"]["steps"][0]["x"].__setitem__(0, 9)],
        "larger workspace than": [lambda t: t["run"].update(workspace=BIG)],
        "whole number": [
            lambda t: t["run"].update(workspace=-1),
            lambda t: t["run"].update(workspace=2**64),
            lambda t: t["run"].update(workspace=1.5),
            lambda t: t["run"].update(workspace=True),
        ],
        "does not know": [
            lambda t: t["run"]["steps"][0].update(op="warp"),
            lambda t: t["run"]["steps"][0].update(colour=3),
        ],
        "the operation '\N{GREEK SMALL LETTER BETA}'": [
            lambda t: t["run"]["steps"][0].update(op="\N{GREEK SMALL LETTER BETA}")
        ],
        "'" + "?" * 9: [lambda t: t["run"]["steps"][0].update(op="\x1b" * 2000)],
        "lacks run": [lambda t: t.pop("run")],
        "it is not a whole network": [lambda t: t["plan"].update(mode="modules")],
        "lacks at_once": [lambda t: t["plan"].update(precision="int8")],
        "precision is 'int4'": [lambda t: t["plan"].update(precision="int4")],
        "another version": [lambda t: t.update(version=1)],
        "gives F32": [
            lambda t: t["inputs"][0].update(dtype="F16"),
            lambda t: t["outputs"][0].update(dtype="I64"),
        ],
        "whole numbers as floats": [lambda t: t["inputs"][0].update(dtype="I64")],
        "have one name": [lambda t: t["outputs"].append(t["outputs"][0])],
        "no tensor": [
            lambda t: next(s for s in t["run"]["steps"] if "weight" in s).update(weight="x")
        ],
    }
    check([(rebuilt(path, own), words, words) for words, each in changes.items() for own in each])


def test_hostile_steps():
    cases = []
    for name, steps in HOSTILE_STEPS.items():
        for op, settings, words in steps:

            def change(text, op=op, settings=settings):
                next(s for s in text["run"]["steps"] if s["op"] == op).update(settings)

            cases.append((rebuilt(path_of(name), change), words, f"{op}: {settings}"))
    check(cases)


def numbers_in(value, path=()):
    """Where the whole numbers of a step are."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, each in items for place in numbers_in(each, (*path, key))]
    return [path] if type(value) is int else []


def test_every_number_of_every_step_is_checked():
    """One number is large: the step is refused, or what it computes does not need memory there."""
    files = []
    for name in NAMES:
        for i, step in enumerate(json.loads(text_of(path_of(name)))["run"]["steps"]):
            for *path, last in numbers_in(step):

                def change(text, i=i, path=path, last=last):
                    part = text["run"]["steps"][i]
                    for key in path:
                        part = part[key]
                    part[last] = BIG

                files.append(rebuilt(path_of(name), change))
    said = found(files)
    assert said.count(OPENED) > 100  # settings that an operation does not read
    assert all(said)


def test_damaged_files():
    files, places = [], []
    for name in NAMES:
        data = path_of(name).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for cut in (0, 1, 7, 8, 100, len(data) - 1):
            files.append(data[:cut])
            places.append((name, "cut", False))
        for at in range(0, len(data), 41):
            changed = bytearray(data)
            changed[at] ^= 16
            files.append(bytes(changed))
            places.append((name, at, 8 <= at < start))  # a name may be another one
    for text, (name, at, may_open) in zip(found(files), places, strict=True):
        assert may_open or text != OPENED, f"{name}: byte {at} was changed and nothing noticed"


def test_checksums_of_every_length():
    """Texts of 150 lengths have zlib's checksum, and another one when a byte is changed."""
    right, wrong = [], []
    for length in range(150):
        metadata, parts = parts_of(path_of("fused"))
        part = text_of(path_of("fused")) + b" " * length
        parts["program"] = ({"dtype": "U8", "shape": [len(part)]}, part)
        set_record(metadata, "program", f"dense U8 [{len(part)}]", part)
        right.append(joined(metadata, parts))
        parts["program"] = (parts["program"][0], part[:-70] + bytes([part[-70] ^ 1]) + part[-69:])
        wrong.append(joined(metadata, parts))
    assert set(found(right)) == {OPENED}
    assert all("CRC-32" in text for text in found(wrong))


def test_no_file():
    missing, odd = opened([Path("/no/such/file"), Path("/dev/null")])
    assert "No such file" in missing and "not an ordinary file" in odd


# Elements whose bytes come to four where they are cut to 32 bits.
BEYOND = 2**30 + 1


def claims_a_mask(path):
    """A weight of 2**32 + 2**16 elements, for which its coded mask is long enough."""
    metadata, parts = parts_of(path)
    entry = next(each for each in parts if each.endswith("weight.billhook"))
    name = entry.removesuffix(".billhook")
    sides = metadata[f"@{name}"].count(",") + 1
    part = bytes((2**32 + 2**16) // 2048 + 8)
    shape = ",".join(map(str, [65536, 65537, 1, 1][:sides]))
    set_record(metadata, name, f"entropy F32 [{shape}] nnz=0", part)
    parts[entry] = ({"dtype": "U8", "shape": [len(part)]}, part)
    return joined(metadata, parts)


def test_what_32_bits_cannot_address():
    """Sizes of 4 GB and more are refused there, not cut; elsewhere they are known before."""
    path, room = path_of("fused"), 1 << 20
    session = rebuilt(path, lambda t: t["run"].update(workspace=BEYOND), room)
    port = rebuilt(path, lambda t: t["inputs"][0].update(shape=[BEYOND]), room)
    if pointer_bits() == 32:
        check(
            (data, words, words)
            for data, words in (
                (session, "a session takes more memory than this machine can address"),
                (port, "an input or output is larger than this machine can address"),
                (claims_a_mask(path), "more elements than this machine can address"),
            )
        )
    elif not COMMAND:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            file.write_bytes(session)
            assert billhook_runtime.measure(file)["session"] > 4 * BEYOND


def test_a_program_behind_4_gb():
    """Behind zeros that take no room on the disk."""
    metadata, parts = parts_of(path_of("fused"))
    size, count = 2**28 - 8, 17
    zeros = {f"zeros{i}": ({"dtype": "U8", "shape": [size]}, size) for i in range(count)}
    metadata |= {f"@{name}": f"00000000 dense U8 [{size}]" for name in zeros}
    count_records(metadata, count)
    own = {name: (entry, len(part)) for name, (entry, part) in parts.items()}
    first = head(metadata, zeros | own)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        with path.open("wb") as file:
            file.write(first)
            file.seek(len(first) + size * count)
            file.write(b"".join(part for _, part in parts.values()))
        assert size * count > 2**32 and list(opened([path])) == [OPENED]


if __name__ == "__main__":
    run_tests(globals())
