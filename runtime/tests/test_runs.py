"""Programs from Python, where numpy is all there is: ``make runtime-test``."""

import ctypes
import sys
import threading
import time

import numpy as np

begin = time.perf_counter()
import billhook_runtime  # noqa: E402

IMPORTED = 1e3 * (time.perf_counter() - begin)

from vectors import (  # noqa: E402
    NAMES,
    arrays,
    near,
    near_all,
    outputs_of,
    path_of,
    refused,
    run_tests,
    same,
    vector,
)

BAD_CALL = 3


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


def test_memory_is_known_before():
    for name in NAMES:
        memory = billhook_runtime.measure(path_of(name))
        assert 0 < memory["weights"] < 1 << 20 and memory["thread"] < memory["session"], memory


if __name__ == "__main__":
    run_tests(globals())
    assert "torch" not in sys.modules
    begin = time.perf_counter()
    billhook_runtime.load(vector("fused")[0])
    opened = 1e3 * (time.perf_counter() - begin)
    print(
        f"billhook_runtime {billhook_runtime.__version__}: imported in {IMPORTED:.1f} ms after "
        f"numpy, a small program opened in {opened:.2f} ms"
    )
