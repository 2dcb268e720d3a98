"""How many of the largest scores of several tensors lie in each, without copying all scores."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from billhook.backends.nans import nan_scores
from billhook.distributed import is_sharded
from billhook.errors import MaskError
from billhook.mask import select
from billhook.sharded import largest_in_each

__all__ = ["largest_by_tensor"]

#: Scores in the sample that brackets the threshold.
_SAMPLE = 1 << 16


def largest_by_tensor(scores: Sequence[Tensor], count: int) -> list[int]:
    """How many of the ``count`` largest scores lie in each tensor.

    Of equal scores those of the earlier tensor, and in it those of the lower row-major index, are
    the larger. A sample brackets the threshold, so that only a few percent of the scores are copied
    and ranked. Where that does not work (many equal scores) and for sharded tensors histograms of
    the scores' bits find the threshold.

    Args:
        scores: fp32 tensors on any devices, DTensors included; infinities are allowed.
        count: from 0 to the number of all scores.

    Raises:
        MaskError: a score is NaN.

    >>> largest_by_tensor([torch.tensor([1.0, 5.0]), torch.tensor([5.0, 2.0, 5.0])], 2)
    [1, 1]
    """
    numel = sum(each.numel() for each in scores)
    if any(is_sharded(each) for each in scores):
        nans, found = largest_in_each(scores, max(1, min(count, numel)))
    else:
        nans, found = sum(int(each.isnan().sum()) for each in scores), None
    if nans:
        raise MaskError(nan_scores(nans, numel))
    if not 0 < count < numel:
        return [each.numel() if count else 0 for each in scores]
    found = found or _bracketed(scores, count, numel)
    return found or largest_in_each(scores, count)[1]


def _bracketed(scores: Sequence[Tensor], count: int, numel: int) -> list[int] | None:
    """The result by way of a sample, or None if too many scores are between its bounds."""
    stride = max(1, numel // _SAMPLE)
    sample = torch.cat([each.flatten()[::stride].cpu() for each in scores])
    sample = sample.sort(descending=True).values
    share = count / numel
    spread = 4.0 * math.sqrt(len(sample) * share * (1.0 - share)) + 4.0
    first, last = share * len(sample) - spread, share * len(sample) + spread
    high = float(sample[int(first)]) if first >= 0 else torch.inf
    low = float(sample[int(last)]) if last < len(sample) else -torch.inf
    above = [int((each > high).count_nonzero()) for each in scores]
    upto = [int((each >= low).count_nonzero()) for each in scores]
    candidates = sum(upto) - sum(above)
    if not sum(above) < count <= sum(upto) or candidates > max(_SAMPLE, numel // 8):
        return None
    inside = [each[(each >= low) & (each <= high)].cpu() for each in scores]
    kept = select(torch.cat(inside), count - sum(above)).split([len(each) for each in inside])
    return [more + int(each.count_nonzero()) for more, each in zip(above, kept, strict=True)]
