"""``torch.ao.pruning``: ``MODULE.parametrizations.NAME.original`` in the model's ``state_dict``,
the masks apart, in the sparsifier (``squash_mask`` leaves plain tensors, which need neither).

A saved ``sparsifier.state_dict()`` cannot be opened with ``weights_only=True``, so masks come as
plain tensors by name."""

from collections.abc import Mapping

import torch

from billhook.errors import FormatError
from billhook.format.interchange.masking import apply_mask

__all__ = ["matches", "to_dense"]

_INFIX, _ORIGINAL = "parametrizations.", ".original"


def matches(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether some tensor is parametrised."""
    return any(_plain_name(name) != name for name in tensors)


def to_dense(
    tensors: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Every parametrised tensor under its plain name, its mask applied."""
    dense: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = _plain_name(name)
        if plain == name:
            dense[name] = tensor
        elif plain in masks:
            dense[plain] = apply_mask(plain, tensor, masks[plain])
        else:
            raise FormatError(
                f"tensor {name!r} has no mask: torch.ao.pruning keeps masks in the sparsifier; "
                "call its squash_mask() before saving, or save them with torch.save({name: "
                "each['mask'] for name, each in sparsifier.state_dict()['state'].items()}, FILE) "
                "and give that file as masks (--masks)"
            )
    return dense


def _plain_name(name: str) -> str:
    """``fc.weight`` for ``fc.parametrizations.weight.original``."""
    module, infix, rest = name.rpartition(_INFIX)
    return module + rest.removesuffix(_ORIGINAL) if infix and rest.endswith(_ORIGINAL) else name
