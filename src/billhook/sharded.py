"""Exact masks of sharded tensors, all of them together, without a gather.

A radix select over the bit pattern of the fp32 scores finds each tensor's threshold: for each of
three digits of :data:`DIGIT` bits, one message adds up the ranks' histograms of all tensors. Where
a threshold cuts through equal scores, a second select over their row-major indices in the whole
tensor finds the last that survives, so the split of a tensor over the ranks makes no difference.
That is at most six messages, whatever the number of tensors and however large they are. Where all
tensors are ranked together first, three messages find the one threshold for both.
"""

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, distributed
from torch.utils.weak import WeakTensorKeyDictionary

from billhook.backends.portable import there
from billhook.distributed import is_sharded, part, region, row_major_strides, shard_groups, whole

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

__all__ = ["largest_in_each", "select_together"]

#: Bits of a score, or of an index, that one histogram resolves.
DIGIT = 11
_BINS = 1 << DIGIT
_LOWEST = torch.iinfo(torch.int32).min


class _Threshold(NamedTuple):
    """Of a tensor as a whole."""

    key: int
    below: int  #: how many keys are smaller
    equal: int  #: how many are equal


#: Thresholds of scores that were ranked together: the numbers say for which counts they are right.
_KNOWN: MutableMapping[Tensor, _Threshold] = WeakTensorKeyDictionary()


def select_together(
    scores: Sequence["DTensor"], counts: Sequence[int]
) -> tuple[list[int], list[Tensor]]:
    """What :func:`billhook.mask.select` gives of each tensor as a whole, and its number of NaNs.

    Every rank calls it with its parts of the same tensors, in the same order.

    Args:
        scores: DTensors.
        counts: how many survive of each.

    Returns:
        The numbers of NaNs, and the masks, laid out as the scores; those of tensors with a NaN
        mean nothing.
    """
    thresholds, nans = _thresholds(scores, counts)
    masks, ties, among = [], [], []
    for each, threshold, kept in zip(scores, thresholds, counts, strict=True):
        order = _descending(part(each))
        masks.append(order < threshold.key + _LOWEST)
        among.append(kept - threshold.below)
        equal = order == threshold.key + _LOWEST
        ties.append((equal if among[-1] > 0 else equal.zero_()).nonzero())
    cut = [i for i, (k, t) in enumerate(zip(among, thresholds, strict=True)) if 0 < k < t.equal]
    if cut:
        indices = [_row_major(ties[i], scores[i]) for i in cut]
        bits = max(scores[i].numel() for i in cut).bit_length()
        last = _search(indices, [among[i] for i in cut], bits, [scores[i] for i in cut])
        for i, index, bound in zip(cut, indices, last.keys, strict=True):
            ties[i] = ties[i][index <= bound]
    for mask, places in zip(masks, ties, strict=True):
        mask[places.unbind(1)] = True
    return nans, [whole(m, s) for m, s in zip(masks, scores, strict=True)]


def _thresholds(
    scores: Sequence["DTensor"], counts: Sequence[int]
) -> tuple[list[_Threshold], list[int]]:
    """Of each tensor the key of the last that survives, if any does, and the number of NaNs."""
    known = [_KNOWN.pop(each, None) for each in scores]
    if all(t and t.below <= n <= t.below + t.equal for t, n in zip(known, counts, strict=True)):
        return [each for each in known if each], [0] * len(scores)
    ranks = [min(max(kept, 1), max(1, s.numel())) for kept, s in zip(counts, scores, strict=True)]
    found = _search(_keys(scores), ranks, 32, scores, beside=_nans(scores))
    return list(map(_Threshold, found.keys, found.below, found.equal)), found.beside


def largest_in_each(scores: Sequence[Tensor], count: int) -> tuple[int, list[int]]:
    """The number of NaNs, and how many of the ``count`` largest scores of all tensors lie in each.

    Of equal scores those of the earlier tensor are the larger. Sharded tensors are ranked as the
    wholes that they are parts of. That takes three messages, which :func:`select_together` then
    does not need for these counts.

    Args:
        scores: fp32 tensors on any devices, DTensors among them.
        count: from 1 to the number of all scores.
    """
    found = _search(_keys(scores), [count], 32, scores, beside=_nans(scores))
    left = count - sum(found.below)
    result = []
    for below, equal in zip(found.below, found.equal, strict=True):
        taken = min(left, equal)
        left -= taken
        result.append(below + taken)
    if not any(found.beside):
        for each, *threshold in zip(scores, found.keys, found.below, found.equal, strict=True):
            if is_sharded(each):
                _KNOWN[each] = _Threshold(*threshold)
    return sum(found.beside), result


class _Found(NamedTuple):
    """Of each tensor, on all ranks together."""

    keys: list[int]  #: the key at its rank
    below: list[int]  #: how many keys are smaller
    equal: list[int]  #: how many are equal
    beside: list[int]  #: the sums of what was to be added up beside


def _search(
    keys: Sequence[Tensor],
    ranks: Sequence[int],
    bits: int,
    likes: Sequence[Tensor],
    beside: Sequence[int] | None = None,
) -> _Found:
    """The keys at these ranks (from 1, the smallest first), unsigned numbers of ``bits`` bits.

    Args:
        keys: this rank's, of each tensor.
        ranks: one for each tensor, or a single one among the keys of all tensors.
        bits: of a key.
        likes: how the tensors are spread over the ranks.
        beside: numbers that are to be added up over the ranks in the same messages.
    """
    keys, device, count = list(keys), keys[0].device, len(keys)
    found = _Found([0] * count, [0] * count, [0] * count, list(beside or [0] * count))
    left = there(torch.tensor(ranks), device)[:, None]
    for shift in reversed(range(0, bits, DIGIT)):
        most = (1 << min(DIGIT, bits - shift)) - 1
        counts = torch.stack([_histogram(each >> shift & most).to(device) for each in keys])
        if beside is not None:
            counts = torch.cat([counts, there(torch.tensor(beside), device)[:, None]], 1)
        counts = _sum_over_shards(counts, likes)
        if beside is not None:
            found.beside[:], counts, beside = counts[:, -1].cpu().tolist(), counts[:, :-1], None
        ranked = counts if len(ranks) == count else counts.sum(0, keepdim=True)
        digit = torch.searchsorted(ranked.cumsum(1), left).expand(count, 1)
        equal = counts.gather(1, digit)
        below = counts.cumsum(1).gather(1, digit) - equal
        left = left - (below if len(ranks) == count else below.sum(0, keepdim=True))
        for i, (d, e, b) in enumerate(torch.cat([digit, equal, below], 1).cpu().tolist()):
            found.keys[i], found.equal[i] = found.keys[i] << DIGIT | d, e
            found.below[i] += b
            keys[i] = keys[i][(keys[i] >> shift & most) == d]
    return found


def _keys(scores: Sequence[Tensor]) -> list[Tensor]:
    """Unsigned numbers of 32 bits whose order is that of the scores, the largest first."""
    return [_descending(part(each)).flatten() ^ _LOWEST for each in scores]


def _nans(scores: Sequence[Tensor]) -> list[int]:
    return [int(part(each).isnan().sum()) for each in scores]


def _histogram(digits: Tensor) -> Tensor:
    return torch.bincount(digits, minlength=_BINS)


def _sum_over_shards(counts: Tensor, likes: Sequence[Tensor]) -> Tensor:
    """Each row added up over the ranks that hold parts of its tensor."""
    rows: dict[tuple[ProcessGroup, ...], list[int]] = {}
    for row, like in enumerate(likes):
        if is_sharded(like):
            rows.setdefault(shard_groups(like), []).append(row)
    for groups, mine in rows.items():
        total = counts[mine].contiguous()
        for group in groups:
            distributed.all_reduce(total, group=group)
        counts[mine] = total
    return counts


def _descending(scores: Tensor) -> Tensor:
    """Integers (int32) in the order of ``-scores``; +0.0 and -0.0 are equal."""
    bits = (scores.to(torch.float32) + 0.0).view(torch.int32)
    return ~(bits ^ (bits >> 31 & 0x7FFFFFFF))


def _row_major(places: Tensor, tensor: "DTensor") -> Tensor:
    """The indices in the whole tensor of ``places`` (one row of coordinates each) in this part."""
    starts = torch.tensor([start for start, _ in region(tensor)], device=places.device)
    strides = torch.tensor(row_major_strides(tensor.shape), device=places.device)
    return ((places + starts) * strides).sum(1)
