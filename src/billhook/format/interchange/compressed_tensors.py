"""compressed-tensors' ``sparse-bitmask``. ``MODULE.weight`` is four tensors: ``MODULE.compressed``
(nonzeros in row-major order), ``.bitmask`` (uint8, lowest bit first, ``ceil(columns / 8)`` bytes
for each row along the last dimension), ``.shape``, and ``.row_offsets``, which nobody needs."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from billhook.errors import FormatError
from billhook.format.dtypes import dtype_name, from_elements, to_elements
from billhook.format.kernels import bitmask_decode

__all__ = ["matches", "to_dense"]

_VALUES = ".compressed"
_PARTS = (_VALUES, ".bitmask", ".shape", ".row_offsets")


def matches(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether some tensor is bit-mask compressed."""
    return any(
        name.endswith(_VALUES) and name.removesuffix(_VALUES) + ".bitmask" in tensors
        for name in tensors
    )


def to_dense(
    tensors: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor],  # noqa: ARG001 - they are among the tensors
) -> dict[str, torch.Tensor]:
    """Every group of parts replaced by its dense weight, at the place of the values."""
    bases = {name.removesuffix(".bitmask") for name in tensors if name.endswith(".bitmask")}
    dense: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        base, dot, part = name.rpartition(".")
        if base not in bases or dot + part not in _PARTS:
            dense[name] = tensor
        elif dot + part == ".bitmask":
            weight = base if base.endswith(".weight") else f"{base}.weight"
            dense[weight] = _decompress(weight, base, tensors)
    return dense


def _decompress(weight: str, base: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    missing = [base + part for part in _PARTS[:3] if base + part not in tensors]
    if missing:
        raise FormatError(f"tensor {weight!r}: {missing[0]!r} is missing")
    shape = tuple(int(size) for size in tensors[base + ".shape"].reshape(-1).tolist())
    packed = tensors[base + ".bitmask"]
    values = to_elements(tensors[base + _VALUES]).reshape(-1)
    if not shape or min(shape) < 0 or packed.dtype != torch.uint8:
        raise FormatError(f"tensor {weight!r}: shape {shape}, bitmask of {packed.dtype}")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if packed.numel() != rows * ((columns + 7) // 8):
        raise FormatError(
            f"tensor {weight!r}: a bitmask of {packed.numel()} bytes for shape {shape}, which "
            f"takes {rows * ((columns + 7) // 8)}"
        )
    bits = np.unpackbits(
        packed.numpy().reshape(rows, (columns + 7) // 8), axis=1, bitorder="little"
    )
    if bits[:, columns:].any():
        raise FormatError(f"tensor {weight!r}: the bitmask has bits beyond column {columns}")
    mask = np.packbits(bits[:, :columns], bitorder="little")
    try:
        elements = bitmask_decode(mask, values, rows * columns)
    except FormatError as error:
        raise FormatError(f"tensor {weight!r}: {error}") from error
    return from_elements(elements.reshape(shape), dtype_name(tensors[base + _VALUES].dtype))
