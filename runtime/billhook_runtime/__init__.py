"""Runs billhook's programs with numpy alone, without torch.

>>> program = load("runtime/tests/vectors/maps.billhook.safetensors")
>>> x = numpy.load("runtime/tests/vectors/maps.input.npy")
>>> program(x).shape
(2, 5)
"""

import ctypes
import os
import threading
from typing import Any

import numpy

__all__ = ["Program", "ProgramError", "load", "load_bytes", "measure"]

_MAX_DIMENSIONS = 8


class ProgramError(Exception):
    """A file that is not a program that this runtime runs, or arguments that cannot be right."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("dimensions", ctypes.c_size_t),
        ("shape", ctypes.c_int64 * _MAX_DIMENSIONS),
        ("elements", ctypes.c_int64),
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


class Program:
    """A program ready to run; several threads may call it at once.

    ``inputs`` and ``outputs`` map names to one sample's shape. Call it with an array of
    (samples, *shape) for each input, in order or by name; it returns an array, or a dict by name
    if it has several outputs.
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

    def _port(self, describe: Any, index: int) -> tuple[str, tuple[int, ...]]:
        tensor = _Tensor()
        _check(describe(self._handle, index, ctypes.byref(tensor)))
        return tensor.name.decode(errors="replace"), tuple(tensor.shape[: tensor.dimensions])

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
        given = dict(zip(self.inputs, arrays, strict=False)) | named
        if len(arrays) + len(named) != len(self.inputs) or given.keys() != self.inputs.keys():
            raise ProgramError(
                f"the program takes {', '.join(self.inputs)}; {len(arrays)} arrays were given"
                + "".join(f", {name}" for name in named)
            )
        own = [self._array(name, given[name]) for name in self.inputs]
        samples = len(own[0])
        if any(len(array) != samples for array in own):
            raise ProgramError("the inputs have different numbers of samples")
        made = {
            name: numpy.empty((samples, *shape), numpy.float32)
            for name, shape in self.outputs.items()
        }
        session = self._take()
        try:
            _check(
                _billhook.billhook_run(session, _pointers(own), _pointers(made.values()), samples)
            )
        finally:
            self._give(session)
        return made if len(made) > 1 else next(iter(made.values()))

    def _array(self, name: str, value: Any) -> Any:
        array = numpy.asarray(value)
        shape = self.inputs[name]
        if array.dtype != numpy.float32 or array.shape[1:] != shape or array.ndim != len(shape) + 1:
            sides = ", ".join(map(str, shape))
            raise ProgramError(
                f"{name} is {array.dtype} {array.shape}; "
                f"the program takes float32 (samples, {sides})"
            )
        return numpy.ascontiguousarray(array)

    def __del__(self) -> None:
        for session in getattr(self, "_idle", []):
            _billhook.billhook_session_close(session)
        if getattr(self, "_handle", None):
            _billhook.billhook_close(self._handle)


def _pointers(arrays: Any) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def load(path: "str | os.PathLike[str]", threads: int = 1) -> Program:
    """The program of a file; each call of it runs on so many threads."""
    handle = ctypes.c_void_p()
    _check(_billhook.billhook_open(os.fsencode(path), ctypes.byref(handle)))
    return Program(handle, threads)


def load_bytes(data: bytes, threads: int = 1) -> Program:
    """The program in memory, which is not used afterwards."""
    handle = ctypes.c_void_p()
    _check(_billhook.billhook_open_memory(data, len(data), ctypes.byref(handle)))
    return Program(handle, threads)


def measure(path: "str | os.PathLike[str]") -> dict[str, int]:
    """The bytes that a program would take: its ``weights``, at most; what more is in use while they
    are packed (``packing``); a ``session`` of one thread, and each further ``thread``."""
    memory = _Memory()
    _check(_billhook.billhook_measure(os.fsencode(path), ctypes.byref(memory)))
    return {name: int(getattr(memory, name)) for name, *_ in _Memory._fields_}
