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
#: Of how many scores one may lie in the bracket: three times what the sample leads to expect.
_SHARE = 32


def largest_by_tensor(scores: Sequence[Tensor], count: int) -> list[int]:
    """How many of the ``count`` largest scores lie in each tensor.

    Of equal scores those of the earlier tensor, and in it those of the lower row-major index, are
    the larger. A sample brackets the threshold, so that only a few percent of the scores are copied
    and ranked. Where that does not work (many equal scores, several devices) and for sharded
    tensors histograms of the scores' bits find the threshold.

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
    if any(is_sharded(each) for each in scores) or len({each.device for each in scores}) > 1:
        nans, found = largest_in_each(scores, max(1, min(count, numel)))
    elif inner:
        nans, found = _bracketed([each.flatten() for each in scores], count, numel)
    else:
        nans = int(torch.stack([each.isnan().count_nonzero() for each in scores]).sum())
    if nans:
        raise MaskError(nan_scores(nans, numel))
    if not inner:
        return [each.numel() if count else 0 for each in scores]
    return found or largest_in_each(scores, count)[1]


def _bracketed(scores: Sequence[Tensor], count: int, numel: int) -> tuple[int, list[int] | None]:
    """The number of NaNs, and the result by way of a sample.

    It is None if too many scores are between the sample's bounds. Waits for the device once,
    however many tensors there are.
    """
    low, high = _bracket(scores, count / numel, max(1, numel // _SAMPLE))
    seen = [
        torch.stack([x.count_nonzero() for x in (each.isnan(), each > high, each >= low)])
        for each in scores
    ]
    # Even, since two scores are read as one number of the counts' type.
    room = max(_SAMPLE, numel // _SHARE // 2 * 2)
    on_host = scores[0].is_cpu
    placed = [] if on_host else [_placed(scores, low, high, seen, room).view(torch.int64)]
    there = torch.cat([*seen, *placed]).cpu()
    nans, above, upto = zip(*there[: 3 * len(scores)].view(-1, 3).tolist(), strict=True)
    sizes = [most - more for most, more in zip(upto, above, strict=True)]
    missing, size = count - sum(above), sum(sizes)
    if sum(nans) or not 0 < missing <= size <= room:
        return sum(nans), None
    if on_host:
        inside = torch.cat([each[(each >= low) & (each <= high)] for each in scores])
    else:
        inside = there[3 * len(scores) :].view(torch.float32)[:size]
    kept = select(inside, missing).split(sizes)
    return 0, [more + int(each.count_nonzero()) for more, each in zip(above, kept, strict=True)]


def _bracket(scores: Sequence[Tensor], share: float, stride: int) -> tuple[Tensor, Tensor]:
    """Two scores between which the threshold very probably lies; a sample of all tells."""
    sample = torch.cat([each[::stride] for each in scores]).sort(descending=True).values
    spread = 4.0 * math.sqrt(len(sample) * share * (1.0 - share)) + 4.0
    first, last = int(share * len(sample) - spread), int(share * len(sample) + spread)
    high = sample[first] if first > 0 else torch.full_like(sample[0], torch.inf)
    low = sample[last] if last < len(sample) else torch.full_like(sample[0], -torch.inf)
    return low, high


def _placed(
    scores: Sequence[Tensor], low: Tensor, high: Tensor, seen: Sequence[Tensor], room: int
) -> Tensor:
    """The scores from ``low`` to ``high`` in their order, in ``room`` elements of memory.

    How many there are only the device knows (``seen``). Those that find no room are left out.
    """
    result = torch.zeros(room + 1, device=low.device)  # the last takes what is not wanted
    start = seen[0].new_zeros(())
    for each, (_, above, upto) in zip(scores, seen, strict=True):
        inside = (each >= low) & (each <= high)
        place = inside.cumsum(0).add_(start - 1).clamp_(max=room)
        result.scatter_(0, place.masked_fill_(~inside, room), each)
        start = start + upto - above
    return result[:room]
