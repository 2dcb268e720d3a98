"""What the mask-and-original formats share: applying a mask, refusing what is not one."""

import torch

from billhook.errors import FormatError

__all__ = ["apply_mask"]


def apply_mask(name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``weight`` where ``mask`` is 1, and +0.0 where it is 0 (a product would leave -0.0).

    >>> apply_mask("w", torch.tensor([-1.0, 2.0]), torch.tensor([0, 1]))
    tensor([0., 2.])
    """
    if mask.shape != weight.shape:
        raise FormatError(
            f"tensor {name!r}: a mask of shape {tuple(mask.shape)} for a weight of "
            f"{tuple(weight.shape)}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise FormatError(f"tensor {name!r}: its mask holds values other than 0 and 1")
    return torch.where(mask == 1, weight, torch.zeros((), dtype=weight.dtype))
