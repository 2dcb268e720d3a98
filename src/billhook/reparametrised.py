"""Weights that torch computes from other parameters: weight_norm, spectral_norm, its pruning."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from billhook import torch_private
from billhook.distributed import is_sharded
from billhook.errors import MaskError
from billhook.mask import Mask

__all__ = ["check_rows", "computed_by"]

Places = tuple[tuple[nn.Module, str], ...]


def computed_by(module: nn.Module, attribute: str) -> str | None:
    """What computes a weight from this parameter of ``module``, or None if it is used as it is.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> computed_by(layer.parametrizations.weight, "original1"), computed_by(layer, "bias")
    ('weight_norm', None)
    """
    if isinstance(module, ParametrizationList):
        return ", ".join(_snake(type(each).__name__) for each in module) or "a parametrization"
    for hook in torch_private.forward_pre_hooks(module):
        name = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
        if isinstance(name, str) and attribute in (f"{name}_v", f"{name}_g", f"{name}_orig"):
            return _snake(type(hook).__name__)
    return None


def check_rows(places: Places, mask: Mask | Tensor, name: str) -> None:
    """Refuse a mask that empties a row of a weight_norm's direction: its norm divides by 0.

    Raises:
        MaskError: the message names the tensor and how many rows it is.
    """
    for module, attribute in places:
        dim = _norm_dim(module, attribute)
        if dim is None:
            continue
        alive = mask.alive() if isinstance(mask, Mask) else mask
        if is_sharded(alive) or not alive.numel():
            continue
        rows = alive.flatten() if dim == -1 else alive.movedim(dim, 0).flatten(1)
        empty = int((~rows.any(-1)).sum())
        if empty:
            raise MaskError(
                f"no mask for {name}: it would leave nothing in {empty} of the rows by whose norm "
                "weight_norm divides, and 0 / 0 is NaN: prune it less with a rule, or take "
                "weight_norm away first (torch.nn.utils.parametrize.remove_parametrizations)"
            )


def _norm_dim(module: nn.Module, attribute: str) -> int | None:
    """The dimension whose slices weight_norm scales to length 1; -1: the whole; None: not this."""
    found: list[Any]
    if isinstance(module, ParametrizationList):
        found = [each for each in module if type(each).__name__ == "_WeightNorm"]
        is_direction = attribute == "original1"
    else:
        hooks = torch_private.forward_pre_hooks(module)
        found = [hook for hook in hooks if type(hook).__name__ == "WeightNorm"]
        is_direction = attribute in [f"{hook.name}_v" for hook in found]
    if not found or not is_direction:
        return None
    return -1 if found[0].dim is None else int(found[0].dim)


def _snake(name: str) -> str:
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    return words.strip("_")
