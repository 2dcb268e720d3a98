"""Checkpoints of other tools, read as dense tensors with zeros in them: one module per source.

To add one: a module with ``matches(tensors)`` and ``to_dense(tensors, masks)``, and its place in
``SOURCES``. All of them only see named tensors; ``read`` opens the file, never with a plain pickle.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from billhook.errors import BillhookError, FormatError
from billhook.format.interchange import compressed_tensors, torch_ao_pruning, torch_prune
from billhook.format.reader import Reader, load

__all__ = ["SOURCES", "read", "read_metadata", "to_dense"]

SOURCES: tuple[ModuleType, ...] = (torch_prune, torch_ao_pruning, compressed_tensors)
_TORCH_MAGIC = (b"PK", b"\x80")  # torch.save's zip archive, and its older pickle
# Where training scripts keep the weights among other things, in the order of preference.
_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "params_ema", "params")


def read(
    path: str | os.PathLike[str], masks: str | os.PathLike[str] | None = None
) -> dict[str, torch.Tensor]:
    """Dense tensors of a billhook, safetensors or ``torch.save`` file, pruning applied.

    Understands what ``torch.nn.utils.prune`` and ``torch.ao.pruning`` leave in a ``state_dict``
    (whose masks are elsewhere: ``masks`` is a file of them by tensor name) and compressed-tensors'
    ``sparse-bitmask``. A ``torch.save`` file holds a ``state_dict``, or a dict with one in it
    (under ``"state_dict"``, ``"model_state_dict"``, ``"model"`` or the like, or the only one there
    is). It is opened with ``weights_only=True``.

    Raises:
        FormatError: The file is none of these, or holds what no tool writes.
    """
    tensors = _tensors(Path(path))
    try:
        return to_dense(tensors, None if masks is None else _tensors(Path(masks)))
    except BillhookError as error:
        raise FormatError(f"{path}: {error}") from error
    except Exception as error:  # torch raises many kinds about tensors of types that none expects
        raise FormatError(f"{path}: its masks cannot be applied ({error})") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a billhook or safetensors file says beside its tensors; nothing for a ``torch.save``
    file."""
    if _is_torch(Path(path)):
        return {}
    with Reader(path) as file:
        return file.metadata


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


def _is_torch(path: Path) -> bool:
    """Whether ``torch.save`` wrote the file. A safetensors file may begin with the same bytes, its
    header's length, but its ninth is the header's brace, by its specification."""
    if not path.is_file():
        return False  # a folder, a pipe or nothing: the reader's error says so
    with open(path, "rb") as file:
        first = file.read(9)
    return first.startswith(_TORCH_MAGIC) and first[8:] != b"{"


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not _is_torch(path):
        return load(path)
    saved = _torch_load(path)
    if _is_state_dict(saved):
        return dict(saved)
    inside = {key: v for key, v in saved.items() if _is_state_dict(v)} if _is_dict(saved) else {}
    preferred = [key for key in _KEYS if key in inside]
    if preferred or len(inside) == 1:
        return dict(inside[preferred[0] if preferred else next(iter(inside))])
    raise FormatError(
        f"{path} holds no state_dict, but {_describe(saved)}: save one with "
        "torch.save(model.state_dict(), ...)"
    )


def _is_dict(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_state_dict(value: Any) -> bool:
    return (
        _is_dict(value)
        and len(value) > 0
        and all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in value.items())
    )


def _describe(saved: Any) -> str:
    """What a file holds instead of a state_dict, briefly."""
    if not _is_dict(saved):
        return f"a {type(saved).__name__}"
    parts = [f"{key!r} ({type(value).__name__})" for key, value in list(saved.items())[:8]]
    return "a dict of " + (", ".join(parts) or "nothing") + (", ..." if len(saved) > 8 else "")


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file that is not what it seems makes torch raise any kind
        raise FormatError(
            f"{path} cannot be read with weights_only=True, and running the code in it is not safe:"
            f" save a plain state_dict ({error})"
        ) from error
