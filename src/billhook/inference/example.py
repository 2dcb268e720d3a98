"""A program's example: inputs made by a rule, and what its outputs were when it was saved.

It is compared when the program is opened, so that a wrong one (weights that were mixed up, kernels
that misread it) is an error and not a wrong answer. Only a few outputs are kept, and their size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from billhook import torch_private
from billhook.errors import FormatError
from billhook.format.dtypes import DTYPES, dtype_name

__all__ = ["Described", "check_example", "describe_inputs", "example_of", "make_inputs"]

Described = Sequence[Mapping[str, Any]]
"""Of each input its shape and dtype, and of integers the least and the largest."""

TOLERANCE = 1e-3  # relative, in the 2-norm: other instruction sets round otherwise
KINDS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
MAX_DIMENSIONS = 8
OUTPUTS = 64  # that are kept, evenly spaced
MAX_ELEMENTS = 2**20  # of all inputs together; larger examples would make opening slow


def describe_inputs(inputs: Sequence[Any]) -> Described | None:
    """What :func:`make_inputs` needs to make inputs like these; None where it could not.

    >>> describe_inputs([torch.tensor([[3, 9]])])
    [{'shape': [1, 2], 'dtype': 'I64', 'low': 3, 'high': 9}]
    """
    described = []
    for x in inputs:
        plain = isinstance(x, torch.Tensor) and x.layout == torch.strided and not x.is_nested
        if not plain or x.dtype not in (DTYPES[kind] for kind in KINDS) or x.dim() > MAX_DIMENSIONS:
            return None
        entry: dict[str, Any] = {"shape": list(x.shape), "dtype": dtype_name(x.dtype)}
        if not x.is_floating_point() and x.dtype != torch.bool and x.numel():
            entry |= {"low": int(x.min()), "high": int(x.max())}
        described.append(entry)
    return described if _elements(described) <= MAX_ELEMENTS else None


def make_inputs(described: Described) -> tuple[torch.Tensor, ...]:
    """The same inputs on every machine: element i is ``(i * 2654435761 + 12345) mod 2**32`` as a
    float between -1 and 1, or as an integer from the least to the largest.

    >>> make_inputs([{"shape": [3], "dtype": "F32"}])
    (tensor([-1.0000,  0.2361, -0.5279]),)

    Raises:
        ValueError: The description is none.
    """
    if _elements(described) > MAX_ELEMENTS:
        raise ValueError("the example's inputs are too large")
    return tuple(_make(entry) for entry in described)


def _elements(described: Described) -> int:
    return sum(math.prod(entry["shape"]) for entry in described)


def _make(entry: Mapping[str, Any]) -> torch.Tensor:
    shape, low, high = entry["shape"], entry.get("low", 0), entry.get("high", 1)
    whole = all(type(n) is int and abs(n) < 2**62 for n in (*shape, low, high))
    sound = whole and low <= high and min(shape, default=0) >= 0 and len(shape) <= MAX_DIMENSIONS
    if not sound or entry["dtype"] not in KINDS:
        raise ValueError("the example's inputs have no sound shape or range")
    dtype = DTYPES[entry["dtype"]]
    places = np.arange(math.prod(shape), dtype=np.uint32)
    hashed = torch.from_numpy((places * np.uint32(2654435761) + np.uint32(12345)).astype(np.int64))
    spread = (
        hashed.double() / 2**31 - 1 if dtype.is_floating_point else low + hashed % (high - low + 1)
    )
    made: torch.Tensor = spread.to(dtype).reshape(shape)
    return made


def example_of(program: nn.Module, described: Described | None) -> dict[str, Any] | None:
    """What a file keeps; None where the program does not run on inputs made by the rule, as one
    may that takes lengths or indices which belong together."""
    if described is None:
        return None
    try:
        outputs = _digest(program(*make_inputs(described)))
    except Exception:  # a model's own code raises what it likes
        return None
    return {"inputs": list(described), "outputs": outputs} if outputs else None


def check_example(program: nn.Module, example: Mapping[str, Any]) -> None:
    """Raises FormatError unless the program's outputs on the example are what they were."""
    stored = np.array(example["outputs"], dtype=np.float64)
    if stored.ndim != 1 or not 0 < stored.size <= OUTPUTS + 1:
        raise ValueError("the example's outputs are not a list of numbers")
    inputs = make_inputs(example["inputs"])
    try:
        given = np.array(_digest(program(*inputs)), dtype=np.float64)
    except Exception as error:
        raise FormatError(f"the program fails on the example in its file: {error}") from error
    finite = np.isfinite(stored)
    alike = given.shape == stored.shape and bool((np.isfinite(given) == finite).all())
    size = float(np.linalg.norm(stored[finite]))
    distance = float(np.linalg.norm((given - stored)[finite])) if alike else math.inf
    if not distance <= TOLERANCE * size:
        raise FormatError(
            f"the program gives other outputs on the example in its file than when it was saved "
            f"(by {distance / max(size, 1e-38):.1e}, {TOLERANCE} is allowed): compile the model "
            "again, and report this if the file is what billhook.save wrote"
        )


def _digest(outputs: Any) -> list[float]:
    """The 2-norm of all floating outputs, then some of them."""
    leaves = [x for x in torch_private.leaves(outputs) if isinstance(x, torch.Tensor)]
    parts = [x.detach().double().flatten() for x in leaves if x.is_floating_point()]
    if not parts or not sum(map(len, parts)):
        return []
    values = torch.cat(parts)
    count = min(OUTPUTS, len(values))
    some = torch.linspace(0, len(values) - 1, count, dtype=torch.float64).round().long()
    return [float(torch.linalg.vector_norm(values)), *values[some].tolist()]
