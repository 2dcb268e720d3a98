"""From a model to what is to be coded: names checked, ties found, values narrowed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from billhook.errors import ConfigurationError
from billhook.format.coding import Coding, Layout
from billhook.format.dtypes import DTYPES, Elements, dtype_name, file_shape, to_elements
from billhook.format.file_layout import PlannedEntry
from billhook.format.record import SUFFIX, Record, Tied
from billhook.format.values import applies, quantise
from billhook.torch_private import is_transformed

__all__ = ["Prepared", "canonical", "prepare", "tensors_of", "tied_names"]

_LOST = "has lost its memory, as under FSDP between two passes: save the gathered model"
_HAVE_NEGATIVE_ZERO = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _no_scales() -> NDArray[np.float32]:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class Prepared:
    """One tensor before a coding is chosen; ``values`` is empty unless they are narrower than
    ``dtype``, ``target`` unless the tensor is tied; ``shape`` is the file's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: Elements
    nnz: int
    values: str = ""
    scales: NDArray[np.float32] = field(default_factory=_no_scales)
    lost: int = 0
    negative_zeros: int = 0
    target: str = ""

    def entry(self, coding: Coding, layout: Layout) -> PlannedEntry:
        """What the file holds of it in this coding."""
        if self.target:
            return PlannedEntry(self.name, Tied(self.target))
        record = Record(coding.name, self.dtype, self.shape, layout.params, self.values)
        nbytes = layout.nbytes(self.elements.itemsize) + self.scales.nbytes
        return PlannedEntry(self.name, record, nbytes)


def prepare(
    tensors: Mapping[str, torch.Tensor],
    values: str | None = None,
    keep_survivors: bool = False,
    canonical_zeros: bool = False,
) -> Iterator[Prepared]:
    """Every tensor in turn; see ``save`` for the arguments."""
    tied = tied_names(tensors)
    shared: dict[str, Prepared] = {}
    for name, tensor in tensors.items():
        if name in tied:
            yield replace(shared[tied[name]], name=name, target=tied[name])
            continue
        dtype = dtype_name(tensor.dtype)
        shape = file_shape(tuple(tensor.shape), dtype)
        narrow, scales, lost = "", _no_scales(), 0
        elements = to_elements(tensor)
        is_float = tensor.dtype in _HAVE_NEGATIVE_ZERO
        if values is not None and applies(values, tensor):
            quantised = quantise(name, tensor, values, keep_survivors)
            elements, scales, lost = quantised.elements, quantised.scales, quantised.lost
            narrow, is_float = values, values != "I8"
        count = int(np.count_nonzero(_negative_zeros(elements))) if is_float else 0
        if count and canonical_zeros:
            elements, count = canonical(elements), 0
        nnz = int(np.count_nonzero(elements))
        prepared = Prepared(name, dtype, shape, elements, nnz, narrow, scales, lost, count)
        if name in tied.values():
            shared[name] = prepared
        yield prepared


def canonical(elements: Elements) -> Elements:
    """The bits of floats with 0.0 in place of -0.0."""
    return np.where(_negative_zeros(elements), elements.dtype.type(0), elements)


def _negative_zeros(elements: Elements) -> NDArray[np.bool_]:
    """Where a float is -0.0: only its sign bit is set."""
    return np.asarray(elements == elements.dtype.type(1 << (elements.itemsize * 8 - 1)))


def tensors_of(model_or_dict: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The named tensors to store, checked: a module's ``state_dict()``, or the mapping itself."""
    if isinstance(model_or_dict, nn.Module):
        tensors = dict(model_or_dict.state_dict())
    elif isinstance(model_or_dict, Mapping):
        tensors = dict(model_or_dict)
    else:
        raise ConfigurationError(
            f"a {type(model_or_dict).__name__} cannot be stored: give a module, or a dict of "
            "tensors by name such as model.state_dict()"
        )
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ConfigurationError(
                f"{name!r} maps to a {type(tensor).__name__}; only tensors with names that are "
                f"strings can be stored: {_instead(tensors)}"
            )
        if (cause := _unreadable(tensor)) is not None:
            raise ConfigurationError(f"tensor {name!r} {cause}")
        if name == "__metadata__" or name.endswith(SUFFIX):
            raise ConfigurationError(f"the tensor name {name!r} is reserved; rename it")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ConfigurationError(f"the tensor name {name!r} is not valid Unicode; rename it")
    return tensors


def _unreadable(tensor: torch.Tensor) -> str | None:
    """Why the values of a tensor cannot be read from memory, and what to do; None if they can."""
    if is_lazy(tensor):
        return "has no values yet: run one batch through the lazy module first"
    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else tensor.device if tensor.is_meta else tensor.layout
        return (
            f"is {kind} and has no plain values to store: pass a dense tensor on a real device, as "
            "tensor.to_dense() gives"
        )
    if is_transformed(tensor):
        return "belongs to a transform of torch.func under way: save after it"
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return (
            f"is a {type(tensor).__name__}, whose values lie elsewhere: pass plain tensors, as "
            "full_tensor() gives of a DTensor and dequantize() of a quantised one"
        )
    if tensor.dtype not in DTYPES.values():
        back = "dequantize() it, or " if tensor.is_quantized else ""
        kinds = ", ".join(DTYPES)
        return f"is {tensor.dtype}, which cannot be stored: {back}make it one of {kinds}"
    return None if _has_memory(tensor) else _LOST


def _has_memory(tensor: torch.Tensor) -> bool:
    """Whether the storage reaches as far as the tensor does."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    reach = (tensor.storage_offset() + last + 1) * tensor.element_size()
    return tensor.numel() == 0 or tensor.untyped_storage().nbytes() >= reach


def _instead(given: Mapping[str, object]) -> str:
    """Which part of a checkpoint is the state_dict, if one is."""
    for name, value in given.items():
        if (
            isinstance(value, Mapping)
            and value
            and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
        ):
            return f"pass checkpoint[{name!r}]"
    return "drop it from the dict"


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
