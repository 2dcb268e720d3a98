"""Checkpoints of other tools, read as dense tensors with zeros in them: one module per source.

To add one: a module with ``matches(tensors)`` and ``to_dense(tensors, masks)``, and its place in
``SOURCES``. All of them only see named tensors; ``read`` opens the file, never with a plain pickle.
"""

import logging
import os
import re
import zipfile
import zlib
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
_log = logging.getLogger("billhook")
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
        chosen = preferred[0] if preferred else next(iter(inside))
        if len(inside) > 1:
            others = ", ".join(repr(key) for key in inside if key != chosen)
            _log.info("%s: read %r; %s left out", path, chosen, others)
        return dict(inside[chosen])
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
    if (cause := _unusable_archive(path)) is not None:
        raise FormatError(f"{path} {cause}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file that is not what it seems makes torch raise any kind
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            cause = (
                f"holds more than tensors: it names {found[1]}, and to open it would run code. "
                "Save model.state_dict() with torch.save, where you trust the file"
            )
        else:
            first = str(error).partition("\n")[0].partition(". ")[0]
            cause = f"is not a file of torch.save: it is damaged, or of another kind ({first})"
        raise FormatError(f"{path} {cause}") from error


def _unusable_archive(path: Path) -> str | None:
    """Why a zip archive is not a whole file of ``torch.save``; None if it may be one."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "is TorchScript: save torch.jit.load(path).state_dict() with torch.save"
            if any(name.endswith(".npy") for name in names):
                return "is a NumPy archive: save its arrays as tensors, in a dict by name"
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        return f"is a zip archive that is cut off or damaged ({error})"
    if damaged is not None:
        return (
            f"is damaged: the checksum of {damaged!r} does not fit. (Or it was written under "
            "torch.serialization.set_crc32_options(False): then load it and save it again)"
        )
    return None
