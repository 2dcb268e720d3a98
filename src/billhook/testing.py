"""Checks that every part of a pruner and every coding has to pass: billhook's own, and yours.

>>> import billhook
>>> check_schedule(billhook.Cubic(0.9, begin_step=10, end_step=100))
>>> check_criterion(billhook.Magnitude())
>>> check_granularity(billhook.Unstructured())
>>> check_allocation(billhook.Uniform())
>>> check_pruner(billhook.Cubic(0.75, begin_step=2, end_step=12, frequency=2))
>>> check_coding(billhook.format.codings.CODINGS["bitmask"])

Each raises an AssertionError that says what does not hold. Call them in a test of your own.
"""

import copy
import dataclasses
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from billhook.allocation import Allocation, PrunableTensor, Uniform
from billhook.criterion import Criterion, Magnitude, check_scores
from billhook.draw import configuration_of, needs
from billhook.errors import ConfigurationError, FormatError, MaskError
from billhook.format.coding import Coding, Encoded
from billhook.format.dtypes import Elements
from billhook.granularity import Granularity, Unstructured
from billhook.pruner import Pruner
from billhook.schedule import OneShot, Schedule

__all__ = [
    "check_allocation",
    "check_coding",
    "check_criterion",
    "check_granularity",
    "check_pruner",
    "check_schedule",
]

#: Shapes that a granularity is tried on: matrices and convolutions, with and without edges.
SHAPES = ((8, 16), (9, 13), (16, 8, 3, 3), (10, 5, 3), (1, 16), (16, 4))
_SPARSITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def check_schedule(schedule: Schedule) -> None:
    """Check that a schedule is a step function whose values change only at its updates.

    It is 0 before ``begin_step``, always in [0, 1), and exactly ``final_sparsity`` from
    ``end_step`` on, where the last update is; unless it says that it ``falls`` it never does. Its
    copy by ``dataclasses.replace`` equals it.
    """
    updates = list(schedule.updates)
    assert updates == sorted(set(updates)), f"the updates of {schedule} do not rise"
    assert updates[0] == schedule.begin_step, f"{schedule}: the first update is {updates[0]}"
    assert updates[-1] == schedule.end_step, f"{schedule}: the last update is {updates[-1]}"
    values = [schedule(step) for step in range(schedule.end_step + 10)]
    assert all(0.0 <= value < 1.0 for value in values), f"{schedule} leaves [0, 1)"
    assert not any(values[: schedule.begin_step]), f"{schedule} prunes before begin_step"
    assert set(values[schedule.end_step :]) == {schedule.final_sparsity}, (
        f"{schedule} ends at {values[schedule.end_step]}, not {schedule.final_sparsity}"
    )
    for step, (before, after) in enumerate(itertools.pairwise(values), 1):
        assert before == after or step in schedule.updates, f"{schedule} changes at step {step}"
        assert before <= after or schedule.falls, f"{schedule} falls at step {step}"
    assert dataclasses.replace(schedule) == schedule, f"{schedule} is changed by a copy"
    if not schedule.holds_zeros:
        assert schedule.towards(0.5).final_sparsity == 0.5
    configuration_of(schedule, "schedule")


def check_criterion(criterion: Criterion) -> None:
    """Check that scores are fp32, of the weight's shape and equal each time, and change nothing.

    Tried on weights of every floating dtype, with a gradient and, unless the criterion needs one,
    without.
    """
    configuration_of(criterion, "criterion")
    for shape, dtype in itertools.product(((6, 8), (4, 3, 3, 3)), _FLOATS):
        weight = _values(shape, 1).to(dtype)
        grad = _values(shape, 2).to(dtype)
        for each in (grad, None) if needs(criterion) == "weight" else (grad,):
            before = weight.clone(), grad.clone()
            scores = check_scores(criterion(weight, each, "layer.weight"), weight, "layer.weight")
            again = criterion(weight.clone(), each, "layer.weight")
            assert torch.equal(scores, again), f"{criterion} gives other scores the second time"
            assert torch.equal(weight, before[0]), f"{criterion} changes the weight"
            assert torch.equal(grad, before[1]), f"{criterion} changes the gradient"
            assert not scores.isnan().any(), f"{criterion} gives NaN for finite weights"


def check_granularity(
    granularity: Granularity, shapes: Iterable[Sequence[int]] = SHAPES, *, most: float = 0.99
) -> None:
    """Check that masks have exactly ``kept`` survivors, which never rise with the sparsity.

    At sparsity 0 all survive; the mask is the same each time and does not depend on the scores'
    strides; NaN is an error. Shapes that the granularity refuses are skipped, but not all of them.

    Args:
        granularity: what to check.
        shapes: the shapes to try.
        most: the highest sparsity to try.
    """
    configuration_of(granularity, "granularity")
    tried = 0
    for sizes in shapes:
        shape = torch.Size(sizes)
        try:
            granularity.kept(shape, most)
        except ConfigurationError:
            continue
        tried += 1
        _check_shape(granularity, shape, [s for s in _SPARSITIES if s <= most])
    assert tried, f"{granularity} refuses every shape"


def _check_shape(granularity: Granularity, shape: torch.Size, sparsities: list[float]) -> None:
    counts = [granularity.kept(shape, sparsity) for sparsity in sparsities]
    what = f"{granularity} on {tuple(shape)}"
    assert counts == sorted(counts, reverse=True), f"{what}: more survive at a higher sparsity"
    assert counts[0] == shape.numel(), f"{what}: not all survive at sparsity 0"
    for scores in (_values(shape, 3).abs(), _values(shape, 4).mul(2).round(), torch.ones(shape)):
        for count in counts:
            mask = granularity.mask(scores, count)
            kept = int(mask.count_nonzero())
            assert mask.shape == shape, f"{what}: a mask of shape {tuple(mask.shape)}"
            assert mask.dtype == torch.bool, f"{what}: a mask of {mask.dtype}"
            assert kept == count, f"{what}: {kept} survive where kept() says {count}"
            strided = scores.transpose(0, -1).contiguous().transpose(0, -1)
            assert torch.equal(mask, granularity.mask(strided, count)), (
                f"{what}: the mask depends on the strides of the scores"
            )
        level = granularity.level(scores)
        assert level.shape == shape, f"{what}: level() changes the shape"
    spoiled = torch.full(shape, torch.nan)
    try:
        granularity.mask(spoiled, counts[-1])
    except MaskError:
        return
    raise AssertionError(f"{what}: scores that are NaN do not raise an error")


def check_allocation(allocation: Allocation, *, same_total: bool = True) -> None:
    """Check that survivors are whole numbers within each tensor, equal each time.

    Args:
        allocation: what to check.
        same_total: also see that as many survive in all as with ``Uniform``, at every sparsity.
    """
    configuration_of(allocation, "allocation")
    shapes = {"first": (16, 3, 3, 3), "second": (40, 16), "third": (10, 40)}
    scores = {name: _values(shape, n).abs() for n, (name, shape) in enumerate(shapes.items())}
    given = scores if allocation.needs_scores else {}
    for sparsity in _SPARSITIES:
        tensors = {
            name: PrunableTensor(torch.Size(shape), OneShot(sparsity), Unstructured())
            for name, shape in shapes.items()
        }
        counts = allocation(0, tensors, given)
        assert counts == allocation(0, tensors, given), f"{allocation} differs the second time"
        assert counts.keys() == tensors.keys(), f"{allocation} leaves tensors out"
        for name, count in counts.items():
            assert 0 <= count <= tensors[name].numel, f"{allocation}: {count} survivors of {name}"
        total, expected = sum(counts.values()), sum(Uniform()(0, tensors, {}).values())
        assert not same_total or total == expected, (
            f"{allocation} keeps {total} weights at {sparsity}, Uniform() {expected}"
        )


def check_pruner(
    schedule: Schedule,
    *,
    criterion: Criterion = Magnitude(),
    granularity: Granularity = Unstructured(),
    allocation: Allocation = Uniform(),
    regrow: Any = True,
    model: nn.Module | None = None,
) -> None:
    """Check that a run with these parts holds masks, reaches its target and resumes bit for bit.

    A small network is trained to a few steps beyond ``end_step``: masked weights are +0.0 after
    every step, masks change at updates alone, and without ``regrow`` they only shrink. Checkpoints
    of it (model, optimizer and pruner state, written and read back as files are) are loaded by
    other runs, which have to end with the same weights.

    Args:
        schedule, criterion, granularity, allocation, regrow: as for :class:`billhook.Pruner`.
        model: a network that takes a batch of 16 numbers, instead of the one used here; the run is
            on its device.
    """
    parts = {
        "criterion": criterion,
        "granularity": granularity,
        "allocation": allocation,
        "regrow": regrow,
    }
    network = model if model is not None else _network(sparse=schedule.holds_zeros)
    steps = schedule.end_step + 3
    halves = {0, steps // 2, max(0, schedule.end_step - 1), schedule.end_step}
    whole = _Run(network, schedule, parts)
    saved = {0: whole.state()}
    before = whole.pruner.masks
    for step in range(1, steps + 1):
        whole.train(1)
        after = whole.pruner.masks
        for name, mask in after.items():
            weight = whole.model.get_parameter(name).detach()
            moved = (weight[~mask] != 0) | weight[~mask].signbit()
            assert not moved.any(), f"{name} moved at step {step}"
            changed = not torch.equal(mask, before[name])
            assert not changed or step in schedule.updates, f"{name}: new mask at step {step}"
            grown = bool((mask & ~before[name]).any())
            assert regrow is not False or not grown, f"{name}: weights returned at step {step}"
        before = after
        if step in halves:
            saved[step] = whole.state()
    for part in halves:
        second = _Run(network, schedule, parts)
        with torch.no_grad():
            for parameter in second.model.parameters():
                parameter.add_(1.0)
        second.load(saved[part])
        second.train(steps - part)
        for (name, ours), theirs in zip(
            whole.model.named_parameters(), second.model.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs), f"resumed after step {part}, {name} differs"
    report = whole.pruner.finalize()
    assert all(tensor.nonzero <= tensor.kept for tensor in report)


class _Run:
    """A network in training on data that follow from the step."""

    def __init__(self, network: nn.Module, schedule: Schedule, parts: dict[str, Any]) -> None:
        self.model = copy.deepcopy(network)
        self.device = next(self.model.parameters()).device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02, weight_decay=0.1)
        self.pruner = Pruner(self.model, self.optimizer, schedule, **parts)
        self.step = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            self.optimizer.zero_grad()
            x = _values((8, 16), 1_000 + self.step).to(self.device)
            self.model(x).square().mean().backward()
            self.optimizer.step()

    def state(self) -> io.BytesIO:
        file = io.BytesIO()
        states = self.model.state_dict(), self.optimizer.state_dict(), self.pruner.state_dict()
        torch.save({"states": states, "step": self.step}, file)
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        model, optimizer, pruner = state["states"]
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.pruner.load_state_dict(pruner)


_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_coding(coding: Coding) -> None:
    """Check that a coding gives back every element, in exactly the bytes that it measured.

    Tried on elements of 1 to 8 bytes, of many numbers and sparsities. What it expects of a random
    mask is what it takes, or within half a per cent if it says that it is not exact. An entry that
    is a byte too long or too short, that has other parameters, or whose index is corrupt, raises
    FormatError or gives a tensor of the right size; nothing else may happen.
    """
    for numel in (0, 1, 7, 8, 9, 255, 256, 257, 10_007, 70_000):
        for sparsity in (0.0, 0.3, 0.5, 0.9, 0.99, 0.9999, 1.0):
            _check_round_trip(coding, _elements(numel, sparsity, "<u4"))
    for dtype in ("<u1", "<u2", "<u4", "<u8"):
        _check_round_trip(coding, _elements(600, 0.7, dtype).reshape(3, 20, 10))
    _check_round_trip(coding, _elements(1, 0.0, "<u4").reshape(()))
    measured = coding.measure(_elements(100_000, 0.9, "<u4"), 10_000)
    expected = coding.expect(100_000, 10_000, 4)
    assert expected == measured or not expected.exact, f"{coding}: expect() is not exact"
    sizes = expected.nbytes(4), measured.nbytes(4)
    assert abs(sizes[0] - sizes[1]) <= 0.005 * sizes[1], f"{coding}: {sizes[0]} expected, {sizes}"
    encoded = _check_round_trip(coding, _elements(1000, 0.9, "<u4"))
    room = encoded.values.nbytes + len(encoded.index)
    for params in ({}, {**encoded.params, "extra": 1}, dict.fromkeys(encoded.params, 2**70)):
        taken = _entry_is_taken(coding, Encoded(encoded.values, encoded.index, params), room)
        assert not taken or params == encoded.params, f"{coding} takes the parameters {params}"
    for wrong in (room - 1, room + 1):
        index = np.resize(encoded.index, max(0, wrong - encoded.values.nbytes))
        taken = _entry_is_taken(coding, Encoded(encoded.values, index, encoded.params), wrong)
        assert not taken, f"{coding} takes an entry of {wrong} bytes in place of {room}"
    generator = np.random.default_rng(0)
    for _ in range(50):
        index = generator.integers(0, 256, len(encoded.index), dtype=np.uint8)
        _entry_is_taken(coding, Encoded(encoded.values, index, encoded.params), room)


def _elements(numel: int, sparsity: float, dtype: str) -> Elements:
    """Random integers of which round(sparsity * numel) are 0."""
    generator = np.random.default_rng(numel)
    elements = generator.integers(1, 2 ** (8 * int(dtype[-1])), numel, dtype=dtype)
    elements[generator.permutation(numel)[: round(sparsity * numel)]] = 0
    return elements


def _check_round_trip(coding: Coding, elements: Elements) -> Encoded:
    what = f"{coding} of {elements.dtype} {elements.shape}"
    before = elements.copy()
    layout = coding.measure(elements, int(np.count_nonzero(elements)))
    encoded = coding.encode(elements, layout)
    assert encoded.values.dtype == elements.dtype, f"{what}: values of {encoded.values.dtype}"
    sizes = encoded.values.size, encoded.index.size
    planned = layout.values, layout.index_bytes
    assert sizes == planned, f"{what}: {sizes} values and bytes where measure() says {planned}"
    count = coding.check_entry(
        elements.size, encoded.params, layout.nbytes(elements.itemsize), elements.itemsize
    )
    assert count == layout.values, f"{what}: check_entry() says {count} values"
    decoded = coding.decode(encoded, elements.shape)
    assert decoded.dtype == elements.dtype, f"{what}: decoded to {decoded.dtype}"
    assert np.array_equal(decoded, elements), f"{what}: decoded to other elements"
    mask, values = coding.nonzeros(encoded, elements.shape)
    bits = np.packbits(elements.reshape(-1) != 0, bitorder="little")
    assert np.array_equal(mask, bits), f"{what}: nonzeros() gives another mask"
    assert np.array_equal(values, elements[elements != 0]), f"{what}: nonzeros() gives others"
    assert np.array_equal(before, elements), f"{what}: the elements are changed"
    return encoded


def _entry_is_taken(coding: Coding, encoded: Encoded, room: int) -> bool:
    """Whether an entry of 1000 elements of 4 bytes is decoded and not refused by FormatError."""
    try:
        coding.check_entry(1000, encoded.params, room, 4)
        decoded = coding.decode(encoded, (1000,))
        mask, _ = coding.nonzeros(encoded, (1000,))
    except FormatError:
        return False
    assert decoded.shape == (1000,), f"{coding}: decoded to {decoded.shape}, not (1000,)"
    assert mask.shape == (125,), f"{coding}: the mask of 1000 elements has {mask.shape} bytes"
    return True


def _values(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _network(*, sparse: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Unflatten(1, (4, 2, 2)),
            nn.Conv2d(4, 16, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 24),
            nn.Tanh(),
            nn.Linear(24, 16),
        )
    if sparse:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.masked_fill_(parameter < 0, 0.0)
    return network
