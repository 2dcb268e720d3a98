"""Kernels for NEON equal the integer reference, bit for bit, in an emulator of an ARM processor.

Debian's packages g++-aarch64-linux-gnu and qemu-user have what it takes; without them the test is
skipped.
"""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billhook import native
from billhook.inference import kernels
from billhook.inference.int8 import bindings, reference
from billhook.inference.int8.lowering import lower
from billhook.inference.int8.ops import PIXELS, Linear, Program
from billhook.inference.plan import INT8_KERNELS, Choice

from .test_network import convolutions, inputs, vectors
from .test_samples import perceptrons

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
pytestmark = [
    pytest.mark.skipif(not kernels.available(), reason="no native kernels to name the sets"),
    pytest.mark.skipif(
        shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
        reason=f"no {COMPILER} or no {EMULATOR}",
    ),
]
ROOT = Path(__file__).parents[3]
FLAGS = [
    "-std=c++20",
    "-O1",
    "-static",
    "-pthread",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-psabi",
]
DOTPROD = "-march=armv8.2-a+dotprod"
KERNELS = ("u8_map", "u8s8_depthwise", "u8s8_spmm", "u8s8_spmv")
OTHERS = ["abi", "isa", "inference/f32_panel", "inference/u8_steps", "inference/u8_linear"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels and tests/inference/int8/cross.cpp, for ARM."""
    folder = tmp_path_factory.mktemp("neon")
    sources = [f"csrc/{name}.cpp" for name in OTHERS]
    sources += [f"csrc/inference/{name}_portable.cpp" for name in KERNELS]
    own = [f"csrc/inference/{name}_neondot.cpp" for name in KERNELS]
    objects = [str(folder / (Path(name).stem + ".o")) for name in own]
    include = ["-I", "csrc", "-I", "csrc/inference"]
    for source, result in zip(own, objects, strict=True):
        made = [COMPILER, *FLAGS, DOTPROD, *include, "-c", source, "-o", result]
        subprocess.run(made, check=True, cwd=ROOT)
    program = folder / "cross"
    made = [COMPILER, *FLAGS, *include, "tests/inference/int8/cross.cpp", *sources, *objects]
    subprocess.run([*made, "-o", str(program)], check=True, cwd=ROOT)
    return program


def pointers(struct_: ctypes.Structure, at: int = 0) -> Iterator[tuple[int, int]]:
    """Offset and value of each address in a structure."""
    for name, kind, *_ in struct_._fields_:
        value, offset = getattr(struct_, name), at + getattr(type(struct_), name).offset
        if isinstance(value, ctypes.Structure):
            yield from pointers(value, offset)
        elif kind is ctypes.c_void_p and value:
            yield offset, value


def case(
    program: Program, choices: dict[str, Choice], x: np.ndarray, isa: str, pixels: int
) -> bytes:
    """What cross.cpp reads."""
    lowered = lower(program, choices, isa)
    steps = (bindings.Step * len(lowered.steps))(*lowered.steps)
    size = ctypes.sizeof(bindings.Step)
    blocks = [(ctypes.addressof(steps), bytes(steps))]
    places = [(0, i * size + at, to) for i in range(len(steps)) for at, to in pointers(steps[i])]
    for packed in lowered.packed:
        places += [(len(blocks), at, to) for at, to in pointers(packed.struct)]
        blocks.append((ctypes.addressof(packed.struct), bytes(packed.struct)))
        blocks += [(array.ctypes.data, array.tobytes()) for array in packed.arrays.values()]
    samples = 1 if program.by_sample else len(x)
    output = 4 * int(np.prod(program.output_shape))
    result = output * len(x)
    number = [row.name for row in native.instruction_sets()].index(isa)
    strides = (x[0].nbytes, output)
    words = (number, pixels, samples, len(steps), lowered.size, x.nbytes, result, *strides)
    data = struct.pack("<10q", *words, len(blocks))
    for _, block in blocks:
        data += struct.pack("<q", len(block)) + block
    data += struct.pack("<q", len(places))
    for index, at, to in places:
        target = next(
            i for i, (begin, own) in enumerate(blocks) if begin <= to < begin + max(len(own), 1)
        )
        data += struct.pack("<4q", index, at, target, to - blocks[target][0])
    return data + x.tobytes()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Program, np.ndarray, np.ndarray, int]:
    """A program, its inputs, what the reference makes of them, and how many pixels are samples."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["convolution", "depthwise", "vector", "rows"]))
    if kind != "rows":
        program, x = draw(vectors() if kind == "vector" else convolutions(kind == "depthwise"))
        wanted = np.stack([reference.evaluate(program, sample) for sample in x])
        return program, x, wanted, 0
    program = draw(perceptrons())
    pixels = draw(st.integers(1, PIXELS))
    x = inputs(rng, pixels, program.takes)
    return program, x, reference.evaluate(program, x.T[:, None])[:, 0].T, pixels


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_neon_equals_the_reference(runner: Path, data: st.DataObject) -> None:
    text, expected = b"", []
    for _ in range(12):
        program, x, wanted, pixels = data.draw(cases())
        choices = {}
        for _, op in program.layers():
            depthwise = not isinstance(op, Linear) and op.depthwise
            names = [*INT8_KERNELS, *["depthwise"] * (8 * depthwise)]
            choices[op.name] = Choice(
                data.draw(st.sampled_from(names)), data.draw(st.integers(1, 16))
            )
        for isa in ("neondot", "portable"):
            text += case(program, choices, x, isa, pixels)
            expected.append((isa, np.ascontiguousarray(wanted, np.float32)))
    done = subprocess.run([EMULATOR, str(runner)], input=text, capture_output=True, check=True)
    at = 0
    for isa, wanted in expected:
        assert done.stdout[at] == 1
        given = np.frombuffer(done.stdout, np.float32, wanted.size, at + 1)
        np.testing.assert_array_equal(given, wanted.reshape(-1), err_msg=isa)
        at += 1 + wanted.nbytes
    assert at == len(done.stdout)
