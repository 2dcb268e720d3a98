"""Masks on CUDA, ROCm and XPU devices: one launch for all tensors, and the host waits for nothing.

Triton comes with torch's wheels for these devices. What it needs besides, a C compiler and a place
for its cache, may be missing: :func:`is_available` compiles and runs the kernels once, and where
that fails the log says so and torch's own operations take over (:mod:`billhook.backends.portable`).
"""

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from billhook.backends import portable
from billhook.backends.pieces import Pieces, Room, cut, make_room

__all__ = ["Batch", "Change", "Held", "Zero", "is_available", "is_capturing", "layout_of"]

_log = logging.getLogger("billhook")
_PLAIN = (Tensor, torch.nn.Parameter)
_INTS = {2: "int16", 4: "int32", 8: "int64"}
_LARGEST = 2**31 - 2**16  # elements are numbered in int32, up to the end of a piece
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


@functools.cache
def _kernels() -> ModuleType:
    """The kernels' module, which imports triton."""
    from billhook.backends import triton_kernels

    return triton_kernels


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether kernels compile and run on ``device``; if not, the log says why, once."""
    if device.type not in ("cuda", "xpu"):
        return False
    if importlib.util.find_spec("triton") is None:
        log_failure(device, "it is not installed")
        return False
    if not isinstance(_kernels().zero_dense, importlib.import_module("triton").JITFunction):
        log_failure(device, "TRITON_INTERPRET=1 is set, and the interpreter reads main memory")
        return False
    try:
        works = _computes(device)
        reason: object = "it computes something else"
    except Exception as error:  # whatever the compiler, the driver or the cache raise
        works, reason = False, error
    if not works:
        log_failure(device, reason)
    return works


def log_failure(device: torch.device, reason: object) -> None:
    """Say that torch's own operations take over on ``device``, and why."""
    if isinstance(reason, Exception):
        first = str(reason).splitlines() or [""]
        reason = f"{type(reason).__name__}: {first[0]}"
    _log.warning(
        "Triton does not work on %s (%s): masks are drawn and applied by torch's own operations, "
        "which takes several kernels for each tensor",
        device,
        reason,
    )


def _computes(device: torch.device) -> bool:
    """Try every kernel on a few numbers, in fp32."""
    weight = torch.tensor([1.0, 0.0, 3.0, 4.0], device=device)
    aside = torch.tensor([9.0, 2.0, 9.0, 9.0], device=device)
    bits, batch = portable.new_bits(4, device), Batch(device)
    bits.fill_(0b1101)
    [(fresh, nans)] = batch.rank([Held(weight, aside, bits, 2)])
    batch.exchange([Change(weight, aside, bits, fresh)], keep_aside=True)
    grad = torch.ones(4, device=device)
    for check in (False, True):
        batch.zero([Zero(bits, grad, (1, 1))], check=check)
    found = weight.tolist(), aside.tolist()[:2], grad.tolist(), bits.tolist(), int(nans)
    return found == ([0.0, 0.0, 3.0, 4.0], [1.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0b1100], 0)


def layout_of(tensor: Tensor) -> tuple[int, int] | None:
    """(channels, places) of a tensor that lies channels-last, (1, 1) of a row-major one.

    None of what the kernels cannot address: other layouts and item sizes, and subclasses, which
    have no data of their own to point at.
    """
    if (
        type(tensor) not in _PLAIN
        or tensor.layout != torch.strided
        or tensor.itemsize not in _INTS
        or tensor.numel() > _LARGEST
    ):
        return None
    if tensor.is_contiguous():
        return 1, 1
    wanted = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if wanted is None or not tensor.is_contiguous(memory_format=wanted):
        return None
    return tensor.shape[1], tensor.shape[2:].numel()


class Zero(NamedTuple):
    """A tensor that becomes +0.0 where the bits are 0."""

    bits: Tensor
    tensor: Tensor
    layout: tuple[int, int]  #: :func:`layout_of` the tensor


class Held(NamedTuple):
    """A tensor whose mask is to be drawn anew."""

    weight: Tensor  #: kept weights, +0.0 where the bits are 0
    aside: Tensor | None  #: masked ones, laid out as the weight; None: they do not return
    bits: Tensor  #: the mask in force
    kept: int  #: how many survive

    @property
    def fits(self) -> bool:
        """Whether the kernels can address it."""
        return self.weight.dtype in _KINDS and _fits(self.weight, self.aside)


class Change(NamedTuple):
    """A tensor whose mask changes."""

    weight: Tensor
    aside: Tensor | None
    bits: Tensor  #: the mask in force, which is rewritten
    fresh: Tensor  #: the new one

    @property
    def fits(self) -> bool:
        """Whether the kernels can address it."""
        return _fits(self.weight, self.aside)


def _fits(weight: Tensor, aside: Tensor | None) -> bool:
    layout = layout_of(weight)
    return layout is not None and (aside is None or layout_of(aside) == layout)


class Batch:
    """All masks on one device.

    Nothing it keeps moves or grows. Tables of addresses are copied from pinned memory when an
    address changed, without waiting; a CUDA graph has tables of its own, which stay as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pieces: dict[tuple[int, ...], Pieces] = {}
        self._rooms: dict[tuple[tuple[int, ...], torch.dtype], Room] = {}
        self._tables: dict[str, tuple[list[int], Tensor]] = {}
        self._captured: list[tuple[Tensor, Tensor]] = []  # read again by every replay

    def zero(self, jobs: Sequence[Zero], *, check: bool) -> bool:
        """Write +0.0 where the bits are 0: a launch for each item size.

        Args:
            jobs: masks and tensors; several tensors may share a mask.
            check: read first and write only what is not zero yet, which pays where that is rare.
        """
        for size in sorted({job.tensor.itemsize for job in jobs}):
            mine = [job for job in jobs if job.tensor.itemsize == size]
            name = f"zero {size} {check} {len(mine)}"
            self._prepare(name, mine, check=check)([job.tensor for job in mine])
        return True

    def prepare(self, jobs: Sequence[Zero]) -> Callable[[Sequence[Tensor]], bool]:
        """What does :meth:`zero` for other tensors like these under the same masks: one launch.

        The item size of all is the same. Valid until the next one is prepared.
        """
        return self._prepare("prepared", jobs, check=False)

    def _prepare(
        self, name: str, jobs: Sequence[Zero], *, check: bool
    ) -> Callable[[Sequence[Tensor]], bool]:
        kernels = _kernels()
        pieces = self._cut(tuple(job.tensor.numel() for job in jobs))
        bits = self._table(f"{name} bits", [job.bits.data_ptr() for job in jobs])
        layout = self._table(f"{name} layouts", [n for job in jobs for n in job.layout])
        strided = any(job.layout != (1, 1) for job in jobs)
        numbers = {"BLOCK": kernels.BLOCK, "PIECE": kernels.PIECE}
        numbers["INT"] = _int(jobs[0].tensor.itemsize)
        how = {"CHECK": check, "STRIDED": strided, **numbers}
        where = pieces.slot, pieces.start
        known: list[int] = []
        aligned = True

        def zero(tensors: Sequence[Tensor]) -> bool:
            nonlocal known, aligned
            addresses = [tensor.data_ptr() for tensor in tensors]
            tables = self._table(f"{name} tensors", addresses), bits, pieces.numel
            if addresses != known:
                known, aligned = addresses, not np.any(np.array(addresses) % 16)
            if aligned and not strided and not check:
                self._launch(kernels.zero_dense, pieces.count, *tables, *where, **numbers)
            else:
                self._launch(kernels.zero_masked, pieces.count, *tables, layout, *where, **how)
            torch.autograd.graph.increment_version(tensors)
            return True

        return zero

    def rank(self, tensors: Sequence[Held]) -> list[tuple[Tensor, Tensor]]:
        """Of each tensor the bits of its largest raw magnitudes, and its number of NaNs.

        Both stay on the device, in memory that the next ranking overwrites. Where a score is NaN
        the bits are those of the mask in force.
        """
        results: dict[int, tuple[Tensor, Tensor]] = {}
        for dtype in dict.fromkeys(each.weight.dtype for each in tensors):
            places = [i for i, each in enumerate(tensors) if each.weight.dtype == dtype]
            room = self._rank([tensors[i] for i in places])
            results |= zip(places, zip(room.fresh, room.nans, strict=True), strict=True)
        return [results[i] for i in range(len(tensors))]

    def _rank(self, tensors: Sequence[Held]) -> Room:
        kernels, dtype = _kernels(), tensors[0].weight.dtype
        pieces, raw, where, strided = self._raw(tensors)
        room = self._room(pieces, tensors)
        new = self._pointers(f"fresh {dtype}", room.fresh)
        keeps = self._table(f"keeps {dtype}", [each.kept for each in tensors])
        numbers = {
            "KIND": _KINDS[dtype],
            "STRIDED": strided,
            "BLOCK": kernels.BLOCK,
            "PIECE": kernels.PIECE,
        }
        threshold = room.found, room.rank, room.ties
        room.nans.zero_()
        for shift, width in kernels.DIGITS:
            digit = {
                "SHIFT": shift,
                "BINS": kernels.BINS,
                "FIRST": shift == kernels.DIGITS[0][0],
            }
            seen = room.found, room.nans, room.counts
            self._launch(
                kernels.count_digits,
                pieces.count,
                *(*raw, *where, *seen),
                **digit,
                WIDTH=width,
                **numbers,
            )
            self._launch(
                kernels.find_digit, pieces.tensors, room.counts, *threshold, keeps, **digit
            )
        ties = *raw, *where, *threshold, room.before
        self._launch(kernels.count_ties, pieces.count, *ties, **numbers)
        scan = pieces.first, room.before, room.rank, room.ties
        self._launch(kernels.sum_before, pieces.tensors, *scan, STEP=kernels.BLOCK)
        emit = *raw, new, *where, *threshold, keeps, room.nans, room.before
        self._launch(kernels.emit_mask, pieces.count, *emit, **numbers)
        return room

    def exchange(self, changes: Sequence[Change], *, keep_aside: bool) -> list[bool]:
        """Put masks in force: weights that leave go aside, those that return come back.

        One launch for each dtype moves weights and rewrites bits, so it is done or it is not.

        Args:
            changes: the tensors.
            keep_aside: whether what becomes masked may still return.
        """
        kernels = _kernels()
        for dtype in dict.fromkeys(each.weight.dtype for each in changes):
            mine = [each for each in changes if each.weight.dtype == dtype]
            pieces, raw, where, strided = self._raw(mine)
            new = self._pointers(f"fresh {dtype}", [each.fresh for each in mine])
            numbers = {"BLOCK": kernels.BLOCK, "PIECE": kernels.PIECE}
            how = {"INT": _int(dtype.itemsize), "KEEP": keep_aside, "STRIDED": strided}
            self._launch(kernels.exchange, pieces.count, *raw, new, *where, **how, **numbers)
            torch.autograd.graph.increment_version([each.weight for each in mine])
        return [True] * len(changes)

    def _launch(self, kernel: Any, programs: int, *args: Tensor, **constants: Any) -> None:
        if programs:
            with torch.accelerator.device_index(self._device.index):
                kernel[(programs,)](*args, **constants)

    def _raw(
        self, tensors: Sequence[Held] | Sequence[Change]
    ) -> tuple[Pieces, tuple[Tensor, ...], tuple[Tensor, ...], bool]:
        """Pieces, addresses of what the raw weights lie in, where the pieces are, and STRIDED."""
        weights = [each.weight for each in tensors]
        name = str(weights[0].dtype)
        pieces = self._cut(tuple(weight.numel() for weight in weights))
        raw = (
            self._pointers(f"weights {name}", weights),
            self._pointers(f"asides {name}", [each.aside for each in tensors]),
            self._pointers(f"bits {name}", [each.bits for each in tensors]),
        )
        layouts = [layout_of(weight) or (1, 1) for weight in weights]
        layout = self._table(f"layouts {name}", [n for each in layouts for n in each])
        strided = any(each != (1, 1) for each in layouts)
        return pieces, raw, (pieces.numel, layout, pieces.slot, pieces.start), strided

    def _cut(self, sizes: tuple[int, ...]) -> Pieces:
        if sizes not in self._pieces:
            self._pieces[sizes] = cut(sizes, _kernels().PIECE, self._device)
        return self._pieces[sizes]

    def _room(self, pieces: Pieces, tensors: Sequence[Held]) -> Room:
        sizes = tuple(each.weight.numel() for each in tensors)
        key = sizes, tensors[0].weight.dtype
        if key not in self._rooms:
            self._rooms[key] = make_room(pieces, sizes, _kernels().BINS, self._device)
        return self._rooms[key]

    def _pointers(self, name: str, tensors: Sequence[Tensor | None]) -> Tensor:
        return self._table(name, [0 if each is None else each.data_ptr() for each in tensors])

    def _table(self, name: str, numbers: list[int]) -> Tensor:
        """The numbers as int64 on the device, at an address of their own."""
        known = self._tables.get(name)
        if known is not None and known[0] == numbers and not is_capturing():
            return known[1]
        source = portable.pinned(torch.from_numpy(np.array(numbers, np.int64)), self._device)
        if is_capturing():
            table = torch.empty(len(numbers), dtype=torch.int64, device=self._device)
            self._captured.append((source, table))
        else:
            if known is not None and len(known[0]) == len(numbers):
                table = known[1]
            else:
                table = torch.empty(len(numbers), dtype=torch.int64, device=self._device)
            self._tables[name] = numbers, table
        return table.copy_(source, non_blocking=True)


def is_capturing() -> bool:
    """Whether work on the current CUDA stream is recorded into a graph, not done."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _int(size: int) -> Any:
    """Triton's whole numbers of so many bytes."""
    return getattr(importlib.import_module("triton.language"), _INTS[size])
