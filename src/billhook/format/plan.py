"""What a file will hold, tensor by tensor, and thereby its exact size before it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.format.container import build_header
from billhook.format.dtypes import width
from billhook.format.record import SUFFIX, Record, Tied, line

__all__ = ["VERSION", "Stored", "build", "tensors_of", "tied_names"]

VERSION = "1"


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: its record and the bytes of its entry (0 for a tied one)."""

    name: str
    record: Record | Tied
    nbytes: int = 0


def build(stored: Sequence[Stored]) -> tuple[bytes, list[Stored]]:
    """The file's header, and its entries in the order of their data.

    Plain entries come first, widest elements first, so that every reader finds them aligned.
    """
    entries = [each for each in stored if isinstance(each.record, Record)]
    entries.sort(key=_alignment, reverse=True)
    metadata = {"billhook": VERSION}
    if all(isinstance(each.record, Record) and each.record.plain for each in stored):
        metadata["format"] = "pt"  # what transformers asks of a file it can read by itself
    metadata |= {f"@{each.name}": line(each.record) for each in stored}
    return build_header([_fields(each) for each in entries], metadata), entries


def _alignment(each: Stored) -> int:
    record = each.record
    return width(record.dtype) if isinstance(record, Record) and record.plain else 0


def _fields(each: Stored) -> tuple[str, str, tuple[int, ...], int]:
    record = each.record
    assert isinstance(record, Record)
    if record.plain:
        return each.name, record.dtype, record.shape, each.nbytes
    return each.name + SUFFIX, "U8", (each.nbytes,), each.nbytes


def tensors_of(model_or_dict: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The named tensors to store, checked: a module's ``state_dict()``, or the mapping itself."""
    if isinstance(model_or_dict, nn.Module):
        tensors = dict(model_or_dict.state_dict())
    else:
        tensors = dict(model_or_dict)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ConfigurationError(
                f"{name!r} maps to a {type(tensor).__name__}; only tensors with names that are "
                "strings can be stored: drop it from the dict"
            )
        if name == "__metadata__" or name.endswith(SUFFIX):
            raise ConfigurationError(f"the tensor name {name!r} is reserved; rename it")
    return tensors


def tied_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Which names hold the very same tensor as an earlier one: ``{later: first}``.

    >>> weight = torch.ones(2, 2)
    >>> tied_names({"encoder": weight, "decoder": weight, "transposed": weight.T})
    {'decoder': 'encoder'}
    """
    first: dict[object, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.numel() == 0:
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place in first:
            tied[name] = first[place]
        else:
            first[place] = name
    return tied
