"""How many of the largest scores of several tensors lie in each, without copying all scores."""

import math
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from billhook.backends.nans import nan_scores
from billhook.distributed import is_sharded, part, total
from billhook.errors import MaskError
from billhook.mask import select

__all__ = ["largest_by_tensor"]

#: Scores in the sample that brackets the threshold.
_SAMPLE = 1 << 16


def largest_by_tensor(scores: Sequence[Tensor], count: int) -> list[int]:
    """How many of the ``count`` largest scores lie in each tensor.

    Of equal scores those of the earlier tensor, and in it those of the lower row-major index, are
    the larger. A sample brackets the threshold, so that only a few percent of the scores are copied
    and ranked. Where that does not work (many equal scores) and for sharded tensors the threshold
    is found by bisection over the values of fp32: its passes only count.

    Args:
        scores: fp32 tensors on any devices, DTensors included; infinities are allowed.
        count: from 0 to the number of all scores.

    Raises:
        MaskError: a score is NaN.

    >>> largest_by_tensor([torch.tensor([1.0, 5.0]), torch.tensor([5.0, 2.0, 5.0])], 2)
    [1, 1]
    """
    nans = sum(total(int(part(each).isnan().sum()), each) for each in scores)
    numel = sum(each.numel() for each in scores)
    if nans:
        raise MaskError(nan_scores(nans, numel))
    if not 0 < count < numel:
        return [each.numel() if count else 0 for each in scores]
    if not any(is_sharded(each) for each in scores):
        found = _bracketed(scores, count, numel)
        if found is not None:
            return found
    return _bisected(scores, count)


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


def _bisected(scores: Sequence[Tensor], count: int) -> list[int]:
    low, high = _key(-torch.inf) - 1, _key(torch.inf)  # above(low) >= count > above(high)
    while high - low > 1:
        middle = (low + high) // 2
        if sum(_above(scores, middle)) >= count:
            low = middle
        else:
            high = middle
    largest, candidates = _above(scores, high), _above(scores, low)
    ties = count - sum(largest)
    found = []
    for above, upto in zip(largest, candidates, strict=True):
        taken = min(ties, upto - above)
        ties -= taken
        found.append(above + taken)
    return found


def _above(scores: Sequence[Tensor], key: int) -> list[int]:
    """How many scores of each tensor are above the fp32 number of this key."""
    if key < _key(-torch.inf):
        return [each.numel() for each in scores]
    bound = _number(key)
    return [total(int((part(each) > bound).count_nonzero()), each) for each in scores]


def _key(number: float) -> int:
    """An integer with the order of the fp32 numbers; -0.0 comes just before +0.0."""
    bits: int = struct.unpack("<i", struct.pack("<f", number))[0]
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF) - 1


def _number(key: int) -> float:
    """The fp32 number of a key."""
    bits = key if key >= 0 else -(key + 1) | -0x80000000
    number: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return number
