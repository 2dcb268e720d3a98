"""The shape of what is pruned together: frozen value objects that turn scores into a mask.

Matrices have the shape (out, in); a convolution's weight of shape (out, in, *kernel) is read as a
matrix whose columns are, tap by tap, the input channels: a block of columns covers neighbouring
input channels of one tap, which lie side by side in memory where the channels come last.
Transposed convolutions have the shape (in, out, *kernel), so their rows are input channels. Of a
stack of matrices (experts, out, in), as of a mixture of experts, the rows of all experts lie below
each other: one matrix (experts * out, in).
"""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from billhook.backends.nans import nan_scores
from billhook.errors import ConfigurationError, MaskError
from billhook.mask import select, survivors
from billhook.matrices import as_matrices, bands, density_for, matrix_shape, spread

__all__ = ["NM", "Block", "Granularity", "PerRow", "Rows", "Unstructured", "nearest_kept"]


class Granularity(abc.ABC):
    """Which weights are pruned together. Its ``repr`` is its configuration in checkpoints.

    The number of weights that survive depends on shape and sparsity alone; so it is known before
    anything is trained, and the mask is then drawn for exactly that number.
    """

    @abc.abstractmethod
    def kept(self, shape: torch.Size, sparsity: float) -> int:
        """The number of weights of a tensor of ``shape`` that survive at ``sparsity``.

        It never rises with the sparsity; at sparsity 0 it is all of them.

        Raises:
            ConfigurationError: the shape cannot be pruned in this pattern, or not to this sparsity.
        """

    @abc.abstractmethod
    def mask(self, scores: Tensor, kept: int) -> Tensor:
        """The bool mask (True = kept) of ``scores``' shape with exactly ``kept`` survivors.

        Args:
            scores: fp32, of the weight's shape; infinities are allowed, NaN is an error.
            kept: a number that :meth:`kept` gives for this shape.

        Raises:
            MaskError: a score is NaN, or ``kept`` is a number that :meth:`kept` does not give.
        """

    def level(self, scores: Tensor) -> Tensor:
        """``scores`` with one value per unit that is pruned together: its mean per weight.

        Allocations that rank the weights of several tensors together rank these.
        """
        return scores


def nearest_kept(granularity: Granularity, shape: torch.Size, count: int, least: int = 0) -> int:
    """The number nearest to ``count``, at least ``least``, that ``granularity`` can keep.

    >>> nearest_kept(Block(1, 4), torch.Size([4, 4]), 7)
    8
    """
    count = max(count, least)
    if isinstance(granularity, Unstructured) or not shape.numel():
        return count
    dense, sparse = 0.0, 1.0  # bisect on the sparsity, whose count never rises with it
    for _ in range(60):
        middle = (dense + sparse) / 2
        if _kept_or_none(granularity, shape, middle) > count:
            dense = middle
        else:
            sparse = middle
    above = granularity.kept(shape, dense)
    below = _kept_or_none(granularity, shape, sparse)
    return below if below >= 0 and count - below <= above - count else above


def _kept_or_none(granularity: Granularity, shape: torch.Size, sparsity: float) -> int:
    """The count, or -1 beyond the sparsity that the granularity can reach."""
    try:
        return granularity.kept(shape, sparsity)
    except ConfigurationError:
        return -1


@dataclasses.dataclass(frozen=True)
class Unstructured(Granularity):
    """Single weights: exactly ``round((1 - s) * n)`` of n survive, whatever the ties.

    >>> Unstructured().mask(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), 2)
    tensor([[ True, False],
            [ True, False]])
    """

    def kept(self, shape: torch.Size, sparsity: float) -> int:
        return survivors(shape.numel(), sparsity)

    def mask(self, scores: Tensor, kept: int) -> Tensor:
        return select(scores, kept)


@dataclasses.dataclass(frozen=True)
class Block(Granularity):
    """Blocks of ``rows`` x ``columns`` weights of the matrix (out, in), or (out, in * kernel).

    A weight of shape (O, I) has ``ceil(O / rows) * ceil(I / columns)`` blocks. Where the shape is
    not a multiple, the blocks at the lower and the right edge are smaller. Blocks of one size are
    ranked among themselves, so that every size keeps ``round((1 - s) * count)`` of its blocks and
    the number of surviving weights is known from the shape: for shapes that divide it is
    ``rows * columns * round((1 - s) * O * I / (rows * columns))``. Blocks of a convolution lie
    within the input channels of one tap of its kernel.

    Args:
        rows: output channels in a block; ``Block(1, 4)`` is four neighbouring inputs of an output.
        columns: inputs in a block.
        pooling: how a block's scores become one: their ``"sum"`` or their ``"max"``.

    Raises:
        ConfigurationError: a size below 1 or an unknown pooling; from ``kept``, if a tensor is
            smaller than one block or has fewer than two dimensions.

    Source: Narang et al. 2017, "Block-Sparse Recurrent Neural Networks".

    >>> scores = torch.tensor([[9.0, 0.0, 3.0, 3.0, 1.0], [0.0, 0.0, 3.0, 3.0, 2.0]])
    >>> Block(2, 2).kept(scores.shape, 0.5)  # one of two blocks of 4; none of one block of 2
    4
    >>> Block(2, 2).mask(scores, 4)
    tensor([[False, False,  True,  True, False],
            [False, False,  True,  True, False]])
    """

    rows: int
    columns: int
    pooling: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            _check_count(f"{name} of a block", getattr(self, name), 1)
        if self.pooling not in ("sum", "max"):
            raise ConfigurationError(f"pooling {self.pooling!r} is unknown: use 'sum' or 'max'")

    def kept(self, shape: torch.Size, sparsity: float) -> int:
        return sum(size * survivors(count, sparsity) for size, count in self._sizes(shape))

    def mask(self, scores: Tensor, kept: int) -> Tensor:
        mask = torch.empty_like(scores, dtype=torch.bool, memory_format=torch.contiguous_format)
        out = as_matrices(mask)
        density = density_for(self._sizes(scores.shape), kept)
        for part, source in zip(self._parts(out), self._parts(as_matrices(scores)), strict=True):
            pooled = self._pool(source)
            part.copy_(spread(select(pooled, round(density * pooled.numel())), part))
        return mask

    def level(self, scores: Tensor) -> Tensor:
        level = torch.empty_like(scores, memory_format=torch.contiguous_format)
        out = as_matrices(level)
        for part, source in zip(self._parts(out), self._parts(as_matrices(scores)), strict=True):
            size = part.shape[2] * part.shape[4] if self.pooling == "sum" else 1
            part.copy_(spread(self._pool(source) / size, part))
        return level

    def _pool(self, part: Tensor) -> Tensor:
        """One score per block of (taps, block rows, rows, block columns, columns)."""
        if self.pooling == "max":
            return part.amax(dim=(2, 4))
        return part.sum(dim=(2, 4))

    def _parts(self, matrices: Tensor) -> Iterator[Tensor]:
        """Views (taps, block rows, rows, block columns, columns) of all blocks, one per size."""
        for rows in bands(matrices.shape[1], self.rows):
            for columns in bands(matrices.shape[2], self.columns):
                (top, high, tall), (left, wide, broad) = rows, columns
                part = matrices[:, top : top + high * tall, left : left + wide * broad]
                yield part.unflatten(1, (high, tall)).unflatten(3, (wide, broad))

    def _sizes(self, shape: torch.Size) -> list[tuple[int, int]]:
        """(weights in a block, number of such blocks) for every size."""
        out, inputs, taps = matrix_shape(shape, self)
        if out < self.rows or inputs < self.columns:
            raise ConfigurationError(
                f"{self} is larger than a tensor of shape {tuple(shape)}, which has {out} rows and "
                f"{inputs} columns: use smaller blocks, or leave the tensor dense with a rule "
                "{name: None}"
            )
        return [
            (tall * broad, high * wide * taps)
            for _, high, tall in bands(out, self.rows)
            for _, wide, broad in bands(inputs, self.columns)
        ]


@dataclasses.dataclass(frozen=True)
class Rows(Granularity):
    """Whole rows: all weights of an output, of an embedding's entry, of a convolution's filter.

    Of O rows, ``round((1 - s) * O)`` survive, ranked by the sum of their scores.

    >>> Rows().mask(torch.tensor([[1.0, 1.0], [0.0, 3.0]]), 2)
    tensor([[False, False],
            [ True,  True]])
    """

    def kept(self, shape: torch.Size, sparsity: float) -> int:
        rows = _first_of(shape, self)
        return survivors(rows, sparsity) * (shape.numel() // rows if rows else 0)

    def mask(self, scores: Tensor, kept: int) -> Tensor:
        pooled = scores.flatten(1).sum(1)
        width = scores[:1].numel()
        if kept % max(1, width):
            raise MaskError(_unreachable(self, kept))
        keep = select(pooled, kept // max(1, width))
        return keep.view(-1, *[1] * (scores.dim() - 1)).expand_as(scores).contiguous()

    def level(self, scores: Tensor) -> Tensor:
        mean = scores.flatten(1).mean(1)
        return mean.view(-1, *[1] * (scores.dim() - 1)).expand_as(scores).contiguous()


@dataclasses.dataclass(frozen=True)
class PerRow(Granularity):
    """Single weights, ranked within each row: every output keeps as many of its inputs.

    Of a row of I weights, ``round((1 - s) * I)`` survive. Wanda compares weights so.

    >>> PerRow().mask(torch.tensor([[9.0, 8.0], [1.0, 2.0]]), 2)
    tensor([[ True, False],
            [False,  True]])
    """

    def kept(self, shape: torch.Size, sparsity: float) -> int:
        rows = _first_of(shape, self)
        return rows * survivors(shape.numel() // rows if rows else 0, sparsity)

    def mask(self, scores: Tensor, kept: int) -> Tensor:
        rows = max(1, scores.shape[0])
        if kept % rows:
            raise MaskError(_unreachable(self, kept))
        return _select_in_rows(scores.flatten(1), kept // rows).view(scores.shape)


@dataclasses.dataclass(frozen=True)
class NM(Granularity):
    """N:M sparsity: of every ``m`` neighbouring inputs ``n`` survive.

    Groups run along the inputs of a matrix (out, in), along the input channels of one tap of a
    convolution. Inputs behind the last whole group stay dense. A group is either whole or pruned to
    its ``n`` largest scores, so the sparsity goes from 0 to ``1 - n / m``, and a schedule ramps
    through the G groups of a tensor: at sparsity s, ``round(s / (1 - n / m) * G)`` of them are
    pruned, those first in which the least is lost.

    Args:
        n: survivors of a group, at least 1.
        m: inputs in a group, more than ``n``.

    Raises:
        ConfigurationError: not 1 <= n < m; from ``kept``, if a tensor has fewer than ``m`` inputs
            or the sparsity is above ``1 - n / m``.

    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks".

    >>> NM(2, 4).mask(torch.tensor([[4.0, 1.0, 2.0, 3.0]]), 2)
    tensor([[ True, False, False,  True]])
    >>> NM(2, 4).kept(torch.Size([8, 16]), 0.25), NM(2, 4).kept(torch.Size([8, 16]), 0.5)
    (96, 64)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        _check_count("n of N:M", self.n, 1)
        _check_count("m of N:M", self.m, 2)
        if self.n >= self.m:
            raise ConfigurationError(
                f"NM({self.n}, {self.m}) would prune nothing: n of every m weights survive, so n "
                f"must be below m, for example NM({self.m // 2}, {self.m})"
            )

    @property
    def most(self) -> float:
        """The highest sparsity, ``1 - n / m``."""
        return (self.m - self.n) / self.m

    def kept(self, shape: torch.Size, sparsity: float) -> int:
        groups, removed, most = self._groups(shape), self.m - self.n, self.most
        if sparsity > most + 1e-9:
            raise ConfigurationError(
                f"{self} prunes {most:.4g} of the weights at most, sparsity {sparsity:.4g} is "
                f"beyond that: use a final_sparsity of {most:.4g} or less, in the schedule or in a "
                "rule for this tensor"
            )
        return shape.numel() - removed * round(min(1.0, sparsity / most) * groups)

    def mask(self, scores: Tensor, kept: int) -> Tensor:
        pruned, rest = divmod(scores.numel() - kept, self.m - self.n)
        if rest or not 0 <= pruned <= self._groups(scores.shape):
            raise MaskError(_unreachable(self, kept))
        mask = torch.ones_like(scores, dtype=torch.bool, memory_format=torch.contiguous_format)
        source = self._whole_groups(as_matrices(scores)).contiguous()
        best = _select_in_rows(source.view(-1, self.m), self.n).view(source.shape)
        lost = source.masked_fill(best, 0.0).sum(-1)
        whole = select(lost, lost.numel() - pruned)
        self._whole_groups(as_matrices(mask)).copy_(best | whole.unsqueeze(-1))
        return mask

    def level(self, scores: Tensor) -> Tensor:
        level = torch.full_like(scores, torch.inf, memory_format=torch.contiguous_format)
        source = self._whole_groups(as_matrices(scores)).contiguous()
        best = _select_in_rows(source.view(-1, self.m), self.n).view(source.shape)
        mean = source.masked_fill(best, 0.0).sum(-1, keepdim=True) / (self.m - self.n)
        self._whole_groups(as_matrices(level)).copy_(torch.where(best, torch.inf, mean))
        return level

    def _whole_groups(self, matrices: Tensor) -> Tensor:
        """A view (taps, rows, groups, m)."""
        groups = matrices.shape[2] // self.m
        whole: Tensor = matrices[:, :, : groups * self.m].unflatten(2, (groups, self.m))
        return whole

    def _groups(self, shape: torch.Size) -> int:
        out, inputs, taps = matrix_shape(shape, self)
        if inputs < self.m:
            raise ConfigurationError(
                f"{self} needs {self.m} inputs, a tensor of shape {tuple(shape)} has {inputs}: "
                "leave it dense with a rule {name: None}"
            )
        return taps * out * (inputs // self.m)


def _first_of(shape: torch.Size, granularity: object) -> int:
    if len(shape) < 1:
        raise ConfigurationError(
            f"{granularity} prunes rows, a tensor has no dimension: leave it dense with a rule "
            "{name: None}"
        )
    return shape[0]


def _select_in_rows(scores: Tensor, kept: int) -> Tensor:
    """The mask of the ``kept`` largest of each row; of equal scores the lower index survives."""
    nans = int(scores.isnan().sum())
    if nans:
        raise MaskError(nan_scores(nans, scores.numel()))
    order = scores.sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, order[:, :kept], True)


def _unreachable(granularity: object, kept: int) -> str:
    return f"{kept} survivors cannot be reached with {granularity}: use a number that kept() gives"


def _check_count(what: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{what} {value!r} is not a whole number of {least} or more")
