"""The runtime in an environment with numpy alone: ``make runtime-test``.

The vectors beside it are programs with inputs and torch's outputs; they are run from Python and by
the C example, which is given as the argument.
"""

import ctypes
import functools
import json
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np

VECTORS = Path(__file__).parent / "vectors"
TOLERANCE = 1e-5
BAD_CALL = 3
NAMES = sorted(path.name.split(".")[0] for path in VECTORS.glob("*.safetensors"))

begin = time.perf_counter()
import billhook_runtime  # noqa: E402

IMPORTED = 1e3 * (time.perf_counter() - begin)


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


def test_vectors():
    for name in NAMES:
        given, wanted = arrays(name, "in"), arrays(name, "out")
        for threads in (1, 2, 3):
            program = billhook_runtime.load(path_of(name), threads=threads)
            result = program(**given)
            near_all(program, result, wanted)
            in_order = program(*(given[each] for each in program.inputs))
            assert same(program, in_order, result), f"{name}: runs differ"
        again = billhook_runtime.load_bytes(path_of(name).read_bytes())
        assert same(program, again(**given), result)
        check_samples(program, given, result)


def check_samples(program, given, result):
    """One sample by itself, and none."""
    for count in (0, 1):
        few = {
            name: np.take(x, range(count), program.inputs[name].axis) for name, x in given.items()
        }
        for name, y in outputs_of(program, program(**few)).items():
            own, whole = program.outputs[name], outputs_of(program, result)[name]
            rows = count * (own.shape[own.axis] if own.merged else 1)
            assert np.array_equal(y, np.take(whole, range(rows), own.axis)), name


def test_several_threads_share_a_program():
    path, x, y = vector("fused")
    program, results = billhook_runtime.load(path, threads=2), []

    def call():
        for _ in range(50):
            results.append(program(x))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert len(results) == 200 and all(np.array_equal(r, results[0]) for r in results)
    near(results[0], y)


def test_wrong_inputs():
    path, x, _ = vector("maps")
    program = billhook_runtime.load(path)
    refused(lambda: program(x[:, :, 1:]), "the program takes (samples, 3, 10, 10)")
    refused(lambda: program(x.astype(np.float64)), "input.astype(numpy.float32)")
    refused(program, "input was not given")
    refused(lambda: program(x, x), "2 arrays were given")
    refused(lambda: program(other=x), "takes input: other was given")
    refused(lambda: program(x, input=x), "input was given twice")
    near(program(np.asfortranarray(x)), program(x))


def test_wrong_integers():
    program = billhook_runtime.load(path_of("words"))
    given = arrays("words", "in")
    words = given["words"]
    refused(lambda: program(**{**given, "words": words.astype(np.int32)}), "numpy.int64")
    refused(lambda: program(**{**given, "words": words[:3]}), "takes (7, samples)")
    refused(lambda: program(**{**given, "words": words[:, :1]}), "words 1, h 2, c 2")
    for index in (11, -1, 2**40):
        wrong = words.copy()
        wrong[3, 1] = index
        refused(lambda own=wrong: program(**{**given, "words": own}), "whole numbers from 0 to 10")
    near_all(program, program(**given), arrays("words", "out"))


def test_names_have_indices():
    library, program = billhook_runtime._billhook, billhook_runtime.load(path_of("words"))
    index = ctypes.c_size_t()
    for find, names in (
        (library.billhook_find_input, program.inputs),
        (library.billhook_find_output, program.outputs),
    ):
        find.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        for place, name in enumerate(names):
            assert find(program._handle, name.encode(), ctypes.byref(index)) == 0
            assert index.value == place
        assert find(program._handle, b"z", ctypes.byref(index)) == BAD_CALL
        assert f"'z': it has {', '.join(names)}" in library.billhook_error().decode()
    tensor = billhook_runtime._Tensor()
    assert library.billhook_input(program._handle, 3, ctypes.byref(tensor)) == BAD_CALL
    assert "there are 3, counted from 0" in library.billhook_error().decode()


def text_of(path):
    """A program's text."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    first, last = json.loads(data[8:start])["program"]["data_offsets"]
    return data[start + first : start + last]


def rebuilt(path, change):
    """The file with its program's text changed and its checksums right."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata, parts, position = header["__metadata__"], [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        part = data[start + first : start + last]
        if name == "program":
            text = json.loads(part)
            change(text)
            part = json.dumps(text).encode()
            entry["shape"] = [len(part)]
            record = f"dense U8 [{len(part)}]"
            crc = zlib.crc32(f"program\n{record}\n".encode() + part)
            metadata["@program"] = f"{crc:08x} {record}"
        entry["data_offsets"] = [position, position + len(part)]
        position += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def test_hostile_texts():
    path, x, y = vector("fused")
    near(billhook_runtime.load_bytes(rebuilt(path, lambda text: None))(x), y)
    big = 2**31 - 1
    changes = {
        "outside of its buffer": [
            lambda t: t["run"].update(workspace=100),
            lambda t: t["run"]["steps"][0]["x"].__setitem__(1, big),
            lambda t: t["run"]["steps"][0]["y"].__setitem__(1, big),
            lambda t: t["run"]["steps"][0]["y"].__setitem__(2, big),
            lambda t: t["run"]["steps"][0].update(height=big),
            lambda t: t["outputs"][0].update(shape=[1]),
        ],
        "writes to an input": [lambda t: t["run"]["steps"][0]["y"].__setitem__(0, 1)],
        "does not exist": [lambda t: t["run"]["steps"][0]["x"].__setitem__(0, 9)],
        "larger workspace than": [lambda t: t["run"].update(workspace=big)],
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
    for words, each in changes.items():
        for change in each:
            data = rebuilt(path, change)
            refused(functools.partial(billhook_runtime.load_bytes, data), words)


BIG = 2**31 - 1
FAR = [0, BIG, 1, 1]
HOSTILE_STEPS = {  # of a vector, the first step of an operation: settings, and why they are refused
    "words": [
        ("cast", {"function": "I32"}, "another type than its input has"),
        ("cast", {"width": 8}, "outside of its buffer"),
        ("cast", {"x": [2, 1, 1, 1]}, "outside of its buffer"),
        ("cast", {"x": [0, 0, 1, 1]}, "another type than its input has"),
        ("embed", {"x": [2, 0, 1, 1]}, "whole numbers as floats"),
        ("embed", {"in_height": 2**24}, "more rows than are counted"),
        ("embed", {"in_height": 0}, "no rows"),
        ("embed", {"in_height": 99}, "outside of its buffer"),
        ("embed", {"channels": BIG}, "outside of its buffer"),
        ("embed", {"y": FAR}, "outside of its buffer"),
        ("lstm", {"width": 0}, "does not fit its matrix"),
        ("lstm", {"width": BIG}, "outside of its buffer"),
        ("lstm", {"op": "gru"}, "does not fit its matrix"),
        ("lstm", {"size": [0, 2, 0, 0, 0, 0, 0, 0]}, "does not fit its matrix"),
        ("lstm", {"addend": FAR}, "outside of its buffer"),
        ("lstm", {"extra": [9, 0, 1, 1]}, "does not exist"),
        ("lstm", {"y": [0, 1312, BIG, 7]}, "outside of its buffer"),
        ("lstm", {"weight": "27.weight"}, "does not fit its matrix"),
        ("lstm", {"first_column": 0}, "does not fit its matrix"),
        ("gru", {"x": [0, 2752, BIG, 7]}, "outside of its buffer"),
        ("gru", {"y": [0, 1312, 48, BIG]}, "outside of its buffer"),
        ("gru", {"size": [0, 1, 0, 0, 0, 0, 0, 0]}, "does not fit its matrix"),
    ],
    "attention": [
        ("attention", {"size": [4, 3, 4, 4, 0, 0, 0, 0]}, "do not fit"),
        ("attention", {"size": [4, 0, 4, 4, 0, 0, 0, 0]}, "no size"),
        ("attention", {"size": [BIG, BIG, BIG, BIG, 0, 0, 0, 0]}, "outside of its buffer"),
        ("attention", {"in_width": BIG}, "outside of its buffer"),
        ("attention", {"width": BIG}, "outside of its buffer"),
        ("attention", {"mask": FAR}, "outside of its buffer"),
        ("attention", {"mask": [3, 0, 1, 1]}, "whole numbers as floats"),
        ("attention", {"from": [0, BIG, 0, 0, 0, 0, 0, 0]}, "outside of its buffer"),
        ("attention", {"from": [0, 1, 2, 0, 0, 0, 0, 0]}, "do not fit"),
        ("attention", {"extra": FAR}, "outside of its buffer"),
        ("attention", {"y": [2, 0, 48, 5]}, "whole numbers as floats"),
        ("attention", {"function": "some"}, "does not know"),
        ("matmul", {"size": [1, 5, 0, 5, 0, 0, 0, 0]}, "no size"),
        ("matmul", {"size": [1, 5, 16, BIG, 0, 0, 0, 0]}, "outside of its buffer"),
        ("matmul", {"from": [256, BIG, 16, 0, 0, 0, 0, 0]}, "outside of its buffer"),
        ("matmul", {"to": [256, 16, 48, BIG, 0, 0, 0, 0]}, "outside of its buffer"),
        ("matmul", {"y": [0, 6192, 48, BIG]}, "outside of its buffer"),
        ("normalise", {"addend": FAR}, "outside of its buffer"),
        ("normalise", {"function": "across_rows", "size": [3, 1, *[0] * 6]}, "do not fit its"),
        ("normalise", {"function": "across_rows", "size": [0, 1, *[0] * 6]}, "do not fit its"),
        ("softmax", {"height": BIG}, "outside of its buffer"),
        ("softmax", {"y": [0, 6240, 48, 4]}, "longer than their pitch"),
    ],
    "resized": [
        ("resize", {"parameters": [-1.0, 1.0]}, "scale does not fit"),
        ("resize", {"parameters": [1.0, 1e6]}, "scale does not fit"),
        ("resize", {"parameters": [float("inf"), 1.0]}, "scale does not fit"),
        ("resize", {"parameters": [1.0]}, "than two"),
        ("resize", {"in_width": 0}, "no size"),
        ("resize", {"in_height": BIG}, "outside of its buffer"),
        ("resize", {"width": BIG}, "longer than their pitch"),
        ("reduce", {"channels": BIG}, "outside of its buffer"),
        ("reduce", {"function": "median"}, "does not know"),
        ("normalise", {"extra": [1, BIG, 1, 1]}, "outside of its buffer"),
        ("normalise", {"channels": BIG}, "outside of its buffer"),
        ("softmax", {"function": "mean"}, "does not know"),
    ],
}


WIDE_VIEW = [0, BIG, 64]
WINDOW = {"in_height": 13, "in_width": 11, "height": 7, "width": 6, "kernel_height": 3}
WINDOW |= {"kernel_width": 3, "stride_height": 2, "stride_width": 2, "dilation_height": 1}
WINDOW |= {"dilation_width": 1, "pad_top": 1, "pad_left": 1, "zero": 128}
HOSTILE_STEPS["bytes"] = [
    ("quantise", {"x": [1, 2, 0]}, "multiple of four"),
    ("quantise", {"x": [1, 4, 0]}, "outside of its buffer"),
    ("quantise", {"y": [1, 0, 64]}, "bytes outside of the workspace"),
    ("quantise", {"y": WIDE_VIEW}, "outside of its buffer"),
    ("quantise", {"channels": 0}, "no size"),
    ("quantise", {"by_sample": 2}, "does not exist"),
    ("quantise", {"scale": 1e300}, "no finite float"),
    ("quantise", {"shift": float("inf")}, "no finite float"),
    ("conv", {"x": WIDE_VIEW}, "outside of its buffer"),
    ("conv", {"y": [0, 0, BIG]}, "outside of its buffer"),
    ("conv", {"addend": WIDE_VIEW}, "outside of its buffer"),
    ("conv", {"lines": 9}, "does not fit its weight"),
    ("conv", {"lines": 0}, "does not fit its weight"),
    ("conv", {"groups": 2}, "does not fit"),
    ("conv", {"channels": 4}, "does not fit its weight"),
    ("conv", {"pixels": 43}, "does not fit its windows"),
    ("conv", {"kernel": "2x2"}, "does not know"),
    ("conv", {"weight": "0.bias"}, "another type"),
    ("conv", {"bias": "0.scale"}, "do not fit their weight"),
    ("conv", {"factors": "0.bias"}, "do not fit their weight"),
    ("conv", {"gather": 0}, "larger than a pixel"),
    ("conv", {"addend_scale": -1.0}, "negative factor"),
    ("conv", {"addend_scale": 1e37}, "leave 32 bits"),
    ("conv", {"window": WINDOW | {"in_height": BIG}}, "outside of its buffer"),
    ("conv", {"window": WINDOW | {"stride_width": 0}}, "no size, stride"),
    ("conv", {"window": WINDOW | {"dilation_height": BIG}}, "further than is counted"),
    ("conv", {"window": WINDOW | {"zero": 256}}, "no size, stride"),
    ("conv", {"window": WINDOW | {"colour": 1}}, "does not know"),
    ("depthwise", {"groups": 6}, "does not fit its weight"),
    ("depthwise", {"window": WINDOW | {"in_width": 2**20}}, "outside of its buffer"),
    ("depthwise", {"window": WINDOW | {"stride_width": 1}}, "without a kernel"),
    ("depthwise", {"y": WIDE_VIEW}, "outside of its buffer"),
    ("max_pool", {"window": WINDOW | {"width": BIG, "stride_width": 1}}, "counted"),
    ("average_pool", {"window": WINDOW | {"kernel_width": 2**25}}, "are summed"),
    ("copy", {"first": BIG}, "further than is counted"),
    ("copy", {"first": 2**20}, "outside of its buffer"),
    ("mean", {"pixels": BIG}, "outside of its buffer"),
    ("linear", {"channels": 19}, "does not fit its operand"),
    ("linear", {"y": [0, 2, 4]}, "multiple of four"),
    ("linear", {"x": WIDE_VIEW}, "outside of its buffer"),
    ("linear", {"pixels": 2**20}, "outside of its buffer"),
    ("linear", {"relu": 2}, "does not fit its operand"),
    ("quantise_vector", {"x": [9, 0, 4]}, "does not exist"),
    ("quantise_vector", {"channels": BIG}, "outside of its buffer"),
]
HOSTILE_STEPS["rows"] = [
    ("quantise", {"pixels": 127}, "fewer samples than are planned"),
    ("conv", {"gather": 1}, "fewer samples than are planned"),
    ("linear", {"op": "mean"}, "fewer samples than are planned"),
    ("linear", {"y": [2, 4, 4]}, "outside of its buffer"),
]


def test_hostile_steps():
    for name, cases in HOSTILE_STEPS.items():
        for op, settings, words in cases:

            def change(text, op=op, settings=settings):
                next(s for s in text["run"]["steps"] if s["op"] == op).update(settings)

            data = rebuilt(path_of(name), change)
            case = f"{words} ({op}: {settings})"
            refused(functools.partial(billhook_runtime.load_bytes, data), words, case)


def numbers_in(value, path=()):
    """Where the whole numbers of a step are."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, each in items for place in numbers_in(each, (*path, key))]
    return [path] if type(value) is int else []


def test_every_number_of_every_step_is_checked():
    """One number is large: the step is refused, or what it computes does not need memory there."""
    ran = 0
    for name in NAMES:
        given = arrays(name, "in")
        steps = json.loads(text_of(path_of(name)))["run"]["steps"]
        for i, step in enumerate(steps):
            for *path, last in numbers_in(step):

                def change(text, i=i, path=path, last=last):
                    part = text["run"]["steps"][i]
                    for key in path:
                        part = part[key]
                    part[last] = BIG

                try:
                    program = billhook_runtime.load_bytes(rebuilt(path_of(name), change))
                    program(**given)
                    ran += 1
                except billhook_runtime.ProgramError:
                    continue
    assert ran > 100  # settings that an operation does not read


def test_damaged_files():
    for name in NAMES:
        data = path_of(name).read_bytes()
        for cut in (0, 1, 7, 8, 100, len(data) - 1):
            refused(lambda part=data[:cut]: billhook_runtime.load_bytes(part), "")
        for at in range(0, len(data), 41):
            changed = bytearray(data)
            changed[at] ^= 16
            try:
                billhook_runtime.load_bytes(bytes(changed))
            except (billhook_runtime.ProgramError, MemoryError):
                continue
            start = 8 + int.from_bytes(data[:8], "little")
            assert 8 <= at < start, f"{name}: byte {at} was changed and nothing noticed"
    refused(lambda: billhook_runtime.load("/no/such/file"), "No such file")
    refused(lambda: billhook_runtime.load("/dev/null"), "not an ordinary file")


def test_memory_is_known_before():
    for name in NAMES:
        memory = billhook_runtime.measure(path_of(name))
        assert 0 < memory["weights"] < 1 << 20 and memory["thread"] < memory["session"], memory


def test_the_c_example(example):
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            program = billhook_runtime.load(path_of(name))
            for each, x in arrays(name, "in").items():
                axis = program.inputs[each].axis
                (Path(folder) / each).write_bytes(np.moveaxis(x, axis, 0).tobytes())
            for threads in ("1", "2"):
                run = [*example, str(path_of(name)), threads, folder]
                done = subprocess.run(run, check=True, capture_output=True, text=True)
                for each, wanted in arrays(name, "out").items():
                    own = program.outputs[each]
                    raw = np.frombuffer((Path(folder) / each).read_bytes(), np.float32)
                    near(own.of_samples(raw.reshape(-1, *own.shape)), wanted)
                print("   ", name, done.stdout.strip())


def main():
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        if name == "test_the_c_example":
            test(sys.argv[1:])
        else:
            test()
        print("ok", name)
    assert "torch" not in sys.modules
    begin = time.perf_counter()
    billhook_runtime.load(vector("fused")[0])
    opened = 1e3 * (time.perf_counter() - begin)
    print(
        f"billhook_runtime {billhook_runtime.__version__}: imported in {IMPORTED:.1f} ms after "
        f"numpy, a small program opened in {opened:.2f} ms"
    )


if __name__ == "__main__":
    main()
