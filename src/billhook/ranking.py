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
    inner, found = 0 < count < numel, None
    if any(is_sharded(each) for each in scores):
        nans, found = largest_in_each(scores, max(1, min(count, numel)))
    elif inner:
        nans, found = _bracketed(scores, count, numel)
    else:
        nans = int(_fetched([each.isnan().count_nonzero() for each in scores]).sum())
    if nans:
        raise MaskError(nan_scores(nans, numel))
    if not inner:
        return [each.numel() if count else 0 for each in scores]
    return found or largest_in_each(scores, count)[1]


def _bracketed(scores: Sequence[Tensor], count: int, numel: int) -> tuple[int, list[int] | None]:
    """The number of NaNs, and the result by way of a sample.

    It is None if too many scores are between the sample's bounds. Waits for devices twice, however
    many tensors there are.
    """
    brackets = _brackets(scores, count / numel, max(1, numel // _SAMPLE))
    found = [
        torch.stack([x.count_nonzero() for x in (each.isnan(), each > high, each >= low)])
        for each, (low, high) in zip(scores, brackets, strict=True)
    ]
    nans, above, upto = zip(*_fetched(found).view(-1, 3).tolist(), strict=True)
    sizes = [most - more for most, more in zip(upto, above, strict=True)]
    missing = count - sum(above)
    if sum(nans) or not 0 < missing <= sum(sizes) or sum(sizes) > max(_SAMPLE, numel // 8):
        return sum(nans), None
    inside = [
        _inside(each, low, high, size)
        for each, (low, high), size in zip(scores, brackets, sizes, strict=True)
    ]
    kept = select(_fetched(inside), missing).split(sizes)
    return 0, [more + int(each.count_nonzero()) for more, each in zip(above, kept, strict=True)]


def _brackets(scores: Sequence[Tensor], share: float, stride: int) -> list[tuple[Tensor, Tensor]]:
    """For each tensor the same two scores, on its device, between which the threshold very probably
    lies; a sample of all tells."""
    device = scores[0].device
    sample = torch.cat([each.flatten()[::stride].to(device, non_blocking=True) for each in scores])
    sample = sample.sort(descending=True).values
    spread = 4.0 * math.sqrt(len(sample) * share * (1.0 - share)) + 4.0
    first, last = int(share * len(sample) - spread), int(share * len(sample) + spread)
    high = sample[first] if first > 0 else torch.full_like(sample[0], torch.inf)
    low = sample[last] if last < len(sample) else torch.full_like(sample[0], -torch.inf)
    there = {
        each: (low.to(each, non_blocking=True), high.to(each, non_blocking=True))
        for each in {score.device for score in scores}
    }
    return [there[each.device] for each in scores]


def _inside(scores: Tensor, low: Tensor, high: Tensor, size: int) -> Tensor:
    """The ``size`` scores from ``low`` to ``high``, in any order."""
    if scores.is_cpu:
        return scores[(scores >= low) & (scores <= high)]
    return scores.masked_fill(scores > high, -torch.inf).flatten().topk(size, sorted=False).values


def _fetched(tensors: Sequence[Tensor]) -> Tensor:
    """All elements of the tensors in main memory; waits for their devices once."""
    device = tensors[0].device
    flat = [each.flatten().to(device, non_blocking=True) for each in tensors]
    return torch.cat(flat).cpu()
