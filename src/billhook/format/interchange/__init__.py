"""Checkpoints of other tools, read as dense tensors with zeros in them: one module a source.

To add one: a module with ``matches(tensors)`` and ``to_dense(tensors, masks)``, and its place in
``SOURCES``. All of them only see named tensors; ``read`` opens the file, never with a plain pickle.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from billhook.errors import FormatError
from billhook.format.interchange import compressed_tensors, torch_ao_pruning, torch_prune
from billhook.format.reader import load

__all__ = ["SOURCES", "read", "to_dense"]

SOURCES: tuple[ModuleType, ...] = (torch_prune, torch_ao_pruning, compressed_tensors)
_TORCH_MAGIC = (b"PK", b"\x80")  # torch.save's zip archive, and its older pickle


def read(
    path: str | os.PathLike[str], masks: str | os.PathLike[str] | None = None
) -> dict[str, torch.Tensor]:
    """Dense tensors of a billhook, safetensors or ``torch.save`` file, pruning applied.

    Understands what ``torch.nn.utils.prune`` and ``torch.ao.pruning`` leave in a ``state_dict``
    (whose masks are elsewhere: ``masks`` is a file of them by tensor name) and compressed-tensors'
    ``sparse-bitmask``. A ``torch.save`` file holds a ``state_dict``, or a dict with one under
    ``"state_dict"``; it is opened with ``weights_only=True``.
    """
    return to_dense(_tensors(Path(path)), None if masks is None else _tensors(Path(masks)))


def to_dense(
    tensors: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors with every known tool's pruning applied; other tensors stay as they are.

    >>> to_dense({"fc.weight_orig": torch.ones(2), "fc.weight_mask": torch.tensor([0.0, 1.0])})
    {'fc.weight': tensor([0., 1.])}
    """
    dense = dict(tensors)
    for source in SOURCES:
        if source.matches(dense):
            dense = source.to_dense(dense, masks or {})
    return dense


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with open(path, "rb") as file:
        magic = file.read(2)
    if not magic.startswith(_TORCH_MAGIC):
        return load(path)
    saved = _torch_load(path)
    tensors = saved.get("state_dict", saved) if isinstance(saved, dict) else saved
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in tensors.items()
    ):
        raise FormatError(
            f"{path} holds no state_dict: save one with torch.save(model.state_dict(), ...)"
        )
    return tensors


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise FormatError(
            f"{path} cannot be read with weights_only=True, and running the code in it is not safe:"
            f" save a plain state_dict ({error})"
        ) from error
