"""``torch.nn.utils.prune``: ``NAME_orig`` and ``NAME_mask`` stand for ``NAME = orig * mask``."""

from collections.abc import Mapping

import torch

from billhook.errors import FormatError
from billhook.format.interchange.masking import apply_mask

__all__ = ["matches", "to_dense"]

_ORIGINAL, _MASK = "_orig", "_mask"


def matches(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether some tensor has its mask beside it."""
    return any(name.endswith(_ORIGINAL) for name in tensors)


def to_dense(
    tensors: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor],  # noqa: ARG001 - they are among the tensors
) -> dict[str, torch.Tensor]:
    """Every pair replaced by its product, at the place of the original."""
    dense: dict[str, torch.Tensor] = {}
    used = {name.removesuffix(_ORIGINAL) + _MASK for name in tensors if name.endswith(_ORIGINAL)}
    for name, tensor in tensors.items():
        base = name.removesuffix(_ORIGINAL)
        if name in used:
            continue
        if base == name:
            dense[name] = tensor
        elif base + _MASK in tensors:
            dense[base] = apply_mask(base, tensor, tensors[base + _MASK])
        else:
            raise FormatError(f"tensor {name!r} has no {base + _MASK!r} beside it: is it renamed?")
    return dense
