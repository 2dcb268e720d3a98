"""The parts of the files of compiled models: a text of JSON, dense tensors, sparse weights.

Everything is checked before a kernel reads it: the file may be damaged or hostile.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError, FormatError
from billhook.format.reader import Reader
from billhook.inference.plan import Plan
from billhook.inference.weights.csr import Csr, SparseWeight, narrow, to_csr
from billhook.inference.weights.packing import rows_of_mask

__all__ = [
    "CODED",
    "PARTS",
    "TEXT",
    "check_record",
    "program_text",
    "read_coded",
    "read_dense",
    "read_sparse",
    "read_text",
    "sparse_tensors",
]

VERSION = 1  # of programs whose weights are three tensors each
CODED = (
    2  # of those whose weights are one tensor each, in the codings of the file format, with steps
)
TEXT = "program"
PARTS = ("row_ptr", "column", "value")


def program_text(
    plan: Plan, example: Mapping[str, Any] | None, version: int = VERSION, **rest: Any
) -> dict[str, torch.Tensor]:
    """The plan, and what else is not a tensor, as the tensor ``program`` of JSON text."""
    if example is not None:
        rest["example"] = example
    text = json.dumps({"version": version, "plan": plan.to_dict(), **rest})
    return {TEXT: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def read_text(file: Reader) -> tuple[dict[str, Any], Plan]:
    """What :func:`program_text` wrote, and its plan.

    Raises:
        FormatError: The file holds no program.
        ValueError: The program is of another version, or none.
    """
    if TEXT not in list(file):
        raise FormatError(
            f"{file.path} holds no compiled program: billhook.load gives its tensors, "
            "billhook.save(billhook.compile(...), path) writes programs"
        )
    record = file.final_record(TEXT)
    if record.dtype != "U8" or len(record.shape) != 1:
        raise FormatError(f"{file.path}: {TEXT!r} is {record.dtype} {list(record.shape)}, not text")
    try:
        data = json.loads(bytes(file.tensor(TEXT).numpy()))
    except RecursionError as error:
        raise ValueError("its text is nested too deep") from error
    if not isinstance(data, dict):
        raise ValueError("its text is not a JSON object")
    plan = Plan.from_dict(data["plan"])
    versions = (VERSION, CODED) if plan.mode == "network" else (VERSION,)
    if data.get("version") not in versions or type(data["version"]) is not int:
        raise ConfigurationError(
            f"the program has version {data.get('version')!r}, this billhook reads "
            f"{' and '.join(map(str, versions))}: install a newer one"
        )
    return data, plan


def sparse_tensors(name: str, weight: torch.Tensor | SparseWeight) -> dict[str, torch.Tensor]:
    """The nonzeros of a weight: ``name.row_ptr``, ``name.column`` and ``name.value``."""
    csr = to_csr(weight)
    return {f"{name}.{part}": torch.from_numpy(getattr(csr, part)) for part in PARTS}


def read_dense(file: Reader, name: str, shape: tuple[int, ...], dtype: str = "F32") -> torch.Tensor:
    """A tensor that must have this shape and type; nothing is decoded otherwise.

    Raises:
        ValueError: It has another.
    """
    check_record(file, name, shape, dtype)
    return file.tensor(name)


def check_record(file: Reader, name: str, shape: tuple[int, ...], dtype: str = "F32") -> None:
    """Raises ValueError unless a tensor has this shape and type."""
    record = file.final_record(name)
    if record.shape != tuple(shape) or record.dtype != dtype:
        raise ValueError(
            f"{name!r} is {record.dtype} {list(record.shape)}, not {dtype} {list(shape)}"
        )


def read_sparse(file: Reader, name: str, shape: tuple[int, ...]) -> SparseWeight:
    """A weight's nonzeros, checked: the kernels read wherever these numbers point.

    Raises:
        ValueError: They do not fit the shape.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    nonzeros = file.final_record(f"{name}.value").shape
    # Each value that is stored takes a byte or more, whatever the record claims.
    sized = len(nonzeros) == 1 and nonzeros[0] <= min(rows * columns, file.nbytes)
    if not sized or file.final_record(f"{name}.column").shape != nonzeros:
        raise ValueError(f"the nonzeros of {name!r} do not fit its shape {list(shape)}")
    row_ptr = read_dense(file, f"{name}.row_ptr", (rows + 1,), "I32").numpy()
    kind = "U16" if columns < 2**16 else "I32"
    column = read_dense(file, f"{name}.column", nonzeros, kind).numpy()
    value = read_dense(file, f"{name}.value", nonzeros).numpy()
    sound = (
        row_ptr[0] == 0
        and row_ptr[-1] == len(value)
        and bool((row_ptr[1:] >= row_ptr[:-1]).all())  # differences would wrap around
        and (len(column) == 0 or (column.min() >= 0 and column.max() < columns))
    )
    if not (sound and _ascending(row_ptr, column)):
        raise ValueError(f"the nonzeros of {name!r} do not fit its shape {list(shape)}")
    return SparseWeight(tuple(shape), Csr((rows, columns), row_ptr, narrow(column, columns), value))


def read_coded(file: Reader, name: str, shape: tuple[int, ...]) -> SparseWeight:
    """A weight's nonzeros from its one tensor, which is never dense unless it is stored so.

    Raises:
        ValueError: It has another shape or type.
    """
    check_record(file, name, shape)
    mask, elements = file.nonzeros(name)
    rows, columns = shape[0], math.prod(shape[1:])
    found = None if len(elements) >= 2**31 else rows_of_mask(mask, rows, columns, len(elements))
    if found is None:
        raise ValueError(f"the mask of {name!r} does not fit its {len(elements)} values")
    return SparseWeight(tuple(shape), Csr((rows, columns), *found, elements.view("<f4")))


def _ascending(row_ptr: NDArray[np.int32], column: NDArray[Any]) -> bool:
    """Whether each row's columns ascend, so that none is there twice."""
    rises = column[1:] > column[:-1]
    begins = row_ptr[1:-1]
    rises[begins[(begins > 0) & (begins < len(column))] - 1] = True
    return bool(rises.all())
