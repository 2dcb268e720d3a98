"""Masks on CUDA, ROCm and XPU devices: one launch for all tensors, and the host waits for nothing.

Triton comes with torch's wheels for these devices. What it needs besides, a C compiler and a place
for its cache, may be missing: :func:`is_available` compiles and runs a kernel once, and where that
fails the log says so and torch's own operations take over (:mod:`billhook.backends.portable`).
"""

import dataclasses
import functools
import importlib.util
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from billhook.backends.portable import new_bits

__all__ = ["Batch", "Held", "fits", "is_available"]

_log = logging.getLogger("billhook")
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


@functools.cache
def _kernels() -> ModuleType:
    """The kernels' module, which imports triton."""
    from billhook.backends import triton_kernels

    return triton_kernels


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether kernels compile and run on ``device``; if not, the log says why, once."""
    if device.type not in ("cuda", "xpu") or importlib.util.find_spec("triton") is None:
        return False
    try:
        values, bits = torch.ones(2, device=device), new_bits(2, device)
        bits.fill_(1)
        Batch(device).zero([(bits, values)], check=False)
        works = values.tolist() == [1.0, 0.0]
        reason = "" if works else "it computes something else"
    except Exception as error:  # whatever the compiler, the driver or the cache raise
        works, reason = False, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if not works:
        _log.warning(
            "Triton does not work on %s (%s): masks are applied by torch's own operations, which "
            "takes one kernel for each tensor",
            device,
            reason,
        )
    return works


def fits(tensor: Tensor) -> bool:
    """Whether the kernels can address ``tensor``: plain, dense, row-major or channels-last."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.itemsize in (2, 4, 8)
        and tensor.numel() <= torch.iinfo(torch.int32).max
        and _layout(tensor) is not None
    )


def _layout(tensor: Tensor) -> tuple[int, int] | None:
    """(channels, places) of a tensor that lies channels-last, (1, 1) of a row-major one."""
    if tensor.is_contiguous():
        return 1, 1
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(tensor.dim())
    if wanted is None or not tensor.is_contiguous(memory_format=wanted):
        return None
    return tensor.shape[1], tensor.shape[2:].numel()


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """How tensors of certain sizes are cut, and room for what kernels hand to each other."""

    count: int
    tensors: int
    numel: Tensor
    slot: Tensor
    start: Tensor
    first: Tensor  # the first piece of each tensor, and one more
    found: Tensor
    rank: Tensor
    ties: Tensor
    nans: Tensor
    counts: Tensor
    before: Tensor


class Held(NamedTuple):
    """A tensor whose mask is to be drawn anew."""

    weight: Tensor  #: kept weights, +0.0 where the bits are 0
    aside: Tensor | None  #: masked ones, laid out as the weight; None: they do not return
    bits: Tensor  #: the mask in force
    keep: int  #: how many survive


class Batch:
    """All masks on one device.

    Nothing it keeps moves or grows, so a CUDA graph that was captured with it stays valid: tables
    of addresses are copied from pinned memory when an address changed, without waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pieces: dict[tuple[int, ...], _Pieces] = {}
        self._tables: dict[tuple[str, int], tuple[list[int], Tensor]] = {}

    def zero(self, jobs: Sequence[tuple[Tensor, Tensor]], *, check: bool) -> None:
        """Write +0.0 where the bits are 0, for each (bits, tensor): a launch for each item size.

        Args:
            jobs: masks and tensors that :func:`fits`; several tensors may share a mask.
            check: read first and write only what is not zero yet, which pays where that is rare.
        """
        for size in sorted({tensor.itemsize for _, tensor in jobs}):
            group = [(bits, tensor) for bits, tensor in jobs if tensor.itemsize == size]
            self._zero(group, check, f"zero {size} {check}")

    def _zero(self, jobs: Sequence[tuple[Tensor, Tensor]], check: bool, name: str) -> None:
        kernels, tensors = _kernels(), [tensor for _, tensor in jobs]
        pieces = self._cut(tensors)
        tables = (
            self._pointers(f"{name} tensors", tensors),
            self._pointers(f"{name} bits", [bits for bits, _ in jobs]),
        )
        aligned = all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
        layout, strided = self._layouts(name, tensors)
        numbers = {"INT": _int(tensors[0]), "BLOCK": kernels.BLOCK, "PIECE": kernels.PIECE}
        if aligned and not strided and not check:
            launch = kernels.zero_dense[(pieces.count,)]
            launch(*tables, pieces.numel, pieces.slot, pieces.start, **numbers)
        else:
            launch = kernels.zero_masked[(pieces.count,)]
            where = pieces.numel, layout, pieces.slot, pieces.start
            launch(*tables, *where, **numbers, CHECK=check, STRIDED=strided)
        _tell_autograd(tensors)

    def update(self, tensors: Sequence[Held], *, keep_aside: bool) -> Tensor:
        """Draw the masks of the largest raw magnitudes and put them in force, in place.

        Args:
            tensors: what the masks lie on.
            keep_aside: whether what becomes masked may still return.

        Returns:
            The number of NaN scores of each tensor, int32 on the device. Where any is not 0, no
            mask and no weight has changed.
        """
        fresh = [new_bits(each.weight.numel(), self._device) for each in tensors]
        groups = [
            [i for i, each in enumerate(tensors) if each.weight.dtype == dtype]
            for dtype in dict.fromkeys(each.weight.dtype for each in tensors)
        ]
        nans = torch.zeros(len(tensors), dtype=torch.int32, device=self._device)
        for group in groups:
            counts = self._rank([tensors[i] for i in group], [fresh[i] for i in group])
            nans.index_copy_(0, self._table(f"group {group[0]}", group), counts)
        bad = nans.sum()
        for group in groups:
            mine, new = [tensors[i] for i in group], [fresh[i] for i in group]
            self._exchange(mine, new, bad, keep_aside)
        return nans

    def _rank(self, tensors: Sequence[Held], fresh: Sequence[Tensor]) -> Tensor:
        """Write the new masks into ``fresh``; the number of NaNs of each tensor."""
        kernels = _kernels()
        pieces, raw, where, strided = self._raw(tensors)
        new = self._pointers(f"fresh {tensors[0].weight.dtype}", fresh)
        keeps = self._table(f"keeps {tensors[0].weight.dtype}", [each.keep for each in tensors])
        pieces.rank.copy_(keeps.clamp(min=1))
        pieces.found.zero_()
        pieces.nans.zero_()
        numbers = {
            "KIND": _KINDS[tensors[0].weight.dtype],
            "STRIDED": strided,
            "BLOCK": kernels.BLOCK,
            "PIECE": kernels.PIECE,
        }
        one_each, all_pieces = (pieces.tensors,), (pieces.count,)
        threshold = pieces.found, pieces.rank, pieces.ties
        for shift, width in kernels.DIGITS:
            digit = {"SHIFT": shift, "BINS": kernels.BINS}
            first = {"WIDTH": width, "FIRST": shift == kernels.DIGITS[0][0]}
            target = pieces.found, pieces.nans, pieces.counts
            kernels.count_digits[all_pieces](*raw, *where, *target, **digit, **first, **numbers)
            kernels.find_digit[one_each](pieces.counts, *threshold, **digit)
        kernels.count_ties[all_pieces](*raw, *where, *threshold, pieces.before, **numbers)
        scan = pieces.first, pieces.before, pieces.rank, pieces.ties
        kernels.sum_before[one_each](*scan, STEP=kernels.BLOCK)
        found = *threshold, keeps, pieces.before
        kernels.emit_mask[all_pieces](*raw, new, *where, *found, **numbers)
        return pieces.nans

    def _exchange(
        self, tensors: Sequence[Held], fresh: Sequence[Tensor], bad: Tensor, keep_aside: bool
    ) -> None:
        kernels = _kernels()
        pieces, raw, where, strided = self._raw(tensors)
        new = self._pointers(f"fresh {tensors[0].weight.dtype}", fresh)
        numbers = {"BLOCK": kernels.BLOCK, "PIECE": kernels.PIECE}
        how = {"INT": _int(tensors[0].weight), "KEEP": keep_aside, "STRIDED": strided}
        kernels.exchange[(pieces.count,)](*raw, new, *where, bad, **how, **numbers)
        pieces_of = pieces.numel, pieces.slot, pieces.start
        kernels.commit[(pieces.count,)](raw[2], new, *pieces_of, bad, PIECE=kernels.PIECE)
        _tell_autograd([each.weight for each in tensors])

    def _raw(
        self, tensors: Sequence[Held]
    ) -> tuple[_Pieces, tuple[Tensor, ...], tuple[Tensor, ...], bool]:
        """Pieces, addresses of what the raw weights lie in, where the pieces are, and STRIDED."""
        weights = [each.weight for each in tensors]
        name, pieces = str(weights[0].dtype), self._cut(weights)
        raw = (
            self._pointers(f"weights {name}", weights),
            self._pointers(f"asides {name}", [each.aside for each in tensors]),
            self._pointers(f"bits {name}", [each.bits for each in tensors]),
        )
        layout, strided = self._layouts(f"weights {name}", weights)
        return pieces, raw, (pieces.numel, layout, pieces.slot, pieces.start), strided

    def _cut(self, tensors: Sequence[Tensor]) -> _Pieces:
        sizes = tuple(tensor.numel() for tensor in tensors)
        if sizes not in self._pieces:
            self._pieces[sizes] = _cut(sizes, self._device)
        return self._pieces[sizes]

    def _pointers(self, name: str, tensors: Sequence[Tensor | None]) -> Tensor:
        return self._table(name, [0 if each is None else each.data_ptr() for each in tensors])

    def _layouts(self, name: str, tensors: Sequence[Tensor]) -> tuple[Tensor, bool]:
        layouts = [_layout(tensor) or (1, 1) for tensor in tensors]
        flat = [number for layout in layouts for number in layout]
        return self._table(f"{name} layouts", flat), any(each != (1, 1) for each in layouts)

    def _table(self, name: str, numbers: list[int]) -> Tensor:
        """The numbers as int64 on the device, at an address of their own."""
        key = name, len(numbers)
        known = self._tables.get(key)
        if known is not None and known[0] == numbers:
            return known[1]
        pinned = torch.tensor(numbers, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        table = torch.empty(len(numbers), dtype=torch.int64, device=self._device)
        if known is not None:
            table = known[1]
        table.copy_(pinned, non_blocking=True)
        self._tables[key] = numbers, table
        return table


def _cut(sizes: Sequence[int], device: torch.device) -> _Pieces:
    kernels = _kernels()
    slots, starts, first = [], [], [0]
    for index, size in enumerate(sizes):
        pieces = -(-size // kernels.PIECE)
        slots.append(torch.full((pieces,), index, dtype=torch.int32))
        starts.append(torch.arange(pieces, dtype=torch.int64) * kernels.PIECE)
        first.append(first[-1] + pieces)
    count, tensors = first[-1], len(sizes)

    def room(length: int) -> Tensor:
        return torch.zeros(length, dtype=torch.int32, device=device)

    return _Pieces(
        count=count,
        tensors=tensors,
        numel=torch.tensor(sizes, dtype=torch.int64).to(device),
        slot=torch.cat(slots).to(device),
        start=torch.cat(starts).to(device),
        first=torch.tensor(first, dtype=torch.int64).to(device),
        found=room(tensors),
        rank=room(tensors),
        ties=room(tensors),
        nans=room(tensors),
        counts=room(tensors * kernels.BINS),
        before=room(count),
    )


def _int(tensor: Tensor) -> Any:
    """Triton's whole numbers of the tensor's item size."""
    import triton.language as tl

    return {2: tl.int16, 4: tl.int32, 8: tl.int64}[tensor.itemsize]


def _tell_autograd(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)
