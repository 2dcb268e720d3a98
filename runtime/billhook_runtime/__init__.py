"""Runs billhook's programs with numpy alone, without torch.

>>> program = load("runtime/tests/vectors/maps.billhook.safetensors")
>>> x = numpy.load("runtime/tests/vectors/maps.in.input.npy")
>>> program(x).shape
(2, 5)
"""

import ctypes
import os
import threading
from typing import Any, NamedTuple

import numpy

__all__ = ["Program", "ProgramError", "Tensor", "load", "load_bytes", "measure"]

_MAX_DIMENSIONS = 8
_TYPES = {"F32": numpy.float32, "I64": numpy.int64, "I32": numpy.int32, "BOOL": numpy.bool_}


class ProgramError(Exception):
    """A file that is not a program that this runtime runs, or arguments that cannot be right."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("dimensions", ctypes.c_size_t),
        ("shape", ctypes.c_int64 * _MAX_DIMENSIONS),
        ("elements", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
        ("axis", ctypes.c_size_t),
        ("merged", ctypes.c_int),
    )


class _Memory(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("weights", "packing", "session", "thread"))


def _library() -> ctypes.CDLL:
    folder = os.environ.get("BILLHOOK_RUNTIME_LIBRARY", os.path.dirname(__file__))
    path = folder if os.path.isfile(folder) else os.path.join(folder, "libbillhook.so")
    library = ctypes.CDLL(path)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "billhook_measure": (ctypes.c_int, [ctypes.c_char_p, pointer]),
        "billhook_open": (ctypes.c_int, [ctypes.c_char_p, pointer]),
        "billhook_open_memory": (ctypes.c_int, [ctypes.c_char_p, size, pointer]),
        "billhook_close": (None, [pointer]),
        "billhook_input_count": (size, [pointer]),
        "billhook_output_count": (size, [pointer]),
        "billhook_input": (ctypes.c_int, [pointer, size, pointer]),
        "billhook_output": (ctypes.c_int, [pointer, size, pointer]),
        "billhook_instruction_set": (ctypes.c_char_p, [pointer]),
        "billhook_session_open": (ctypes.c_int, [pointer, size, pointer]),
        "billhook_session_close": (None, [pointer]),
        "billhook_run": (ctypes.c_int, [pointer, pointer, pointer, size]),
        "billhook_error": (ctypes.c_char_p, []),
        "billhook_version": (ctypes.c_char_p, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_billhook = _library()
__version__ = _billhook.billhook_version().decode()


def _check(status: int) -> None:
    if status:
        why = _billhook.billhook_error().decode(errors="replace")  # it may quote the file
        raise MemoryError(why) if status == 4 else ProgramError(why)


class Tensor(NamedTuple):
    """An input or an output: the ``shape`` of one sample, its ``dtype``, and the ``axis`` at which
    the samples come in. They are one dimension with what follows there if ``merged``.

    >>> Tensor((7, 5), numpy.dtype("int64"), axis=1).sides
    '(7, samples, 5)'
    """

    shape: tuple[int, ...]
    dtype: Any
    axis: int = 0
    merged: bool = False

    @property
    def sides(self) -> str:
        """The shape of all samples, as messages say it."""
        own = [str(side) for side in self.shape]
        own.insert(self.axis, "samples")
        return f"({', '.join(own)})" if len(own) > 1 else "(samples,)"

    def samples_first(self, name: str, value: Any) -> Any:
        """The array of an input as the library reads it."""
        array = numpy.asarray(value)
        own = array.shape[: self.axis] + array.shape[self.axis + 1 :]
        if array.ndim != len(self.shape) + 1 or own != self.shape:
            raise ProgramError(
                f"{name} has the shape {array.shape}: the program takes {self.sides}, and no other "
                "size than the one it was compiled for"
            )
        if array.dtype != self.dtype:
            raise ProgramError(
                f"{name} is {array.dtype}, the program takes {self.dtype} {self.sides}: give "
                f"{name}.astype(numpy.{self.dtype})"
            )
        return numpy.ascontiguousarray(numpy.moveaxis(array, self.axis, 0))

    def of_samples(self, y: Any) -> Any:
        """The array of an output as the model gives it."""
        y = numpy.moveaxis(y, 0, self.axis)
        if not self.merged:
            return y
        before, (samples, side, *after) = y.shape[: self.axis], y.shape[self.axis :]
        return y.reshape(*before, samples * side, *after)


class Program:
    """A program ready to run; several threads may call it at once.

    ``inputs`` and ``outputs`` map names to a :class:`Tensor`. Call it with an array for each input,
    in order or by name, of any number of samples; it returns an array, or a dict by name if it has
    several outputs.

    Raises:
        ProgramError: An input is missing, unknown, or of another type or shape, or has an index
            beyond the rows of its table.
    """

    def __init__(self, handle: ctypes.c_void_p, threads: int) -> None:
        self._handle, self._threads = handle, threads
        self._idle: list[ctypes.c_void_p] = []
        self._lock = threading.Lock()
        count = _billhook.billhook_input_count(handle)
        self.inputs = dict(self._port(_billhook.billhook_input, i) for i in range(count))
        count = _billhook.billhook_output_count(handle)
        self.outputs = dict(self._port(_billhook.billhook_output, i) for i in range(count))
        self.instruction_set: str = _billhook.billhook_instruction_set(handle).decode()
        self._give(self._take())

    def _port(self, describe: Any, index: int) -> tuple[str, Tensor]:
        own = _Tensor()
        _check(describe(self._handle, index, ctypes.byref(own)))
        shape, dtype = tuple(own.shape[: own.dimensions]), numpy.dtype(_TYPES[own.dtype.decode()])
        return own.name.decode(errors="replace"), Tensor(shape, dtype, own.axis, bool(own.merged))

    def _take(self) -> ctypes.c_void_p:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        session = ctypes.c_void_p()
        _check(_billhook.billhook_session_open(self._handle, self._threads, ctypes.byref(session)))
        return session

    def _give(self, session: ctypes.c_void_p) -> None:
        with self._lock:
            self._idle.append(session)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The outputs of all samples."""
        given = self._given(arrays, named)
        samples = {name: len(array) for name, array in given.items()}
        if len(set(samples.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in samples.items())
            raise ProgramError(f"the inputs have different numbers of samples: {counts}")
        count = next(iter(samples.values()))
        made = {
            name: numpy.empty((count, *own.shape), own.dtype) for name, own in self.outputs.items()
        }
        session = self._take()
        try:
            inputs, outputs = _pointers(given.values()), _pointers(made.values())
            _check(_billhook.billhook_run(session, inputs, outputs, count))
        finally:
            self._give(session)
        results = {name: self.outputs[name].of_samples(y) for name, y in made.items()}
        return results if len(results) > 1 else next(iter(results.values()))

    def _given(self, arrays: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """The inputs, checked, in the program's order."""
        takes = f"the program takes {', '.join(self.inputs)}"
        if len(arrays) > len(self.inputs):
            raise ProgramError(f"{takes}: {len(arrays)} arrays were given")
        given = dict(zip(self.inputs, arrays, strict=False))
        for name in named:
            if name not in self.inputs or name in given:
                twice = " twice" if name in given else ""
                raise ProgramError(f"{takes}: {name} was given{twice}")
        given |= named
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise ProgramError(f"{takes}: {', '.join(missing)} was not given")
        return {name: own.samples_first(name, given[name]) for name, own in self.inputs.items()}

    def __del__(self) -> None:
        for session in getattr(self, "_idle", []):
            _billhook.billhook_session_close(session)
        if getattr(self, "_handle", None):
            _billhook.billhook_close(self._handle)


def _pointers(arrays: Any) -> Any:
    own = list(arrays)
    return (ctypes.c_void_p * len(own))(*(array.ctypes.data for array in own))


def load(path: str | os.PathLike[str], threads: int = 1) -> Program:
    """The program of a file; each call of it runs on so many threads."""
    handle = ctypes.c_void_p()
    _check(_billhook.billhook_open(os.fsencode(path), ctypes.byref(handle)))
    return Program(handle, threads)


def load_bytes(data: bytes, threads: int = 1) -> Program:
    """The program in memory, which is not used afterwards."""
    handle = ctypes.c_void_p()
    _check(_billhook.billhook_open_memory(data, len(data), ctypes.byref(handle)))
    return Program(handle, threads)


def measure(path: str | os.PathLike[str]) -> dict[str, int]:
    """The bytes that a program would take: its ``weights``, at most; what more is in use while they
    are packed (``packing``); a ``session`` of one thread, and each further ``thread``."""
    memory = _Memory()
    _check(_billhook.billhook_measure(os.fsencode(path), ctypes.byref(memory)))
    return {name: int(getattr(memory, name)) for name, *_ in _Memory._fields_}
