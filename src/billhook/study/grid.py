"""The grid of a study: sizes at which the files are equal, and every trial that has to be run.

The bytes of a file are a function of the shapes and the numbers of nonzeros alone when tensors are
coded dense or by bit-mask, so they are known before anything is trained.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import torch

import billhook
from billhook.errors import ConfigurationError
from billhook.footprint import Footprint, TensorSpec
from billhook.study.family import Family, family
from billhook.study.spec import Data, Pruning, Study, Training

__all__ = ["CODINGS", "DENSE", "LARGE", "SPARSE", "Plan", "Point", "Trial", "footprint_at", "plan"]

#: The codings whose bytes count: each tensor takes the smaller one.
CODINGS = ("dense", "bitmask")

#: The arms: the small networks, the large one pruned, and for reference the large one left dense.
DENSE, SPARSE, LARGE = "small-dense", "large-sparse", "large-dense"


@dataclasses.dataclass(frozen=True)
class Point:
    """One size of file: a small dense network, and the large one pruned to match it.

    ``sparse_bytes`` is the largest size not above ``dense_bytes``: the sparse arm never has more.
    """

    width: int
    dense_bytes: int
    sparsity: float
    sparse_bytes: int

    @property
    def mismatch(self) -> int:
        """Bytes by which the sparse file is larger than the dense one: zero or below."""
        return self.sparse_bytes - self.dense_bytes


@dataclasses.dataclass(frozen=True)
class Trial:
    """One network to train: its whole configuration. Equal configurations are the same trial."""

    family: str
    arm: str
    point: int  # the bytes of the small dense file it is compared at
    width: int
    sparsity: float
    seed: int
    learning_rate: float
    data: Data
    training: Training
    pruning: Pruning | None

    @property
    def group(self) -> tuple[str, int, int]:
        """Arm, point and seed: the trials among which validation data chooses."""
        return self.arm, self.point, self.seed

    @property
    def canonical(self) -> str:
        """The configuration as JSON, the same text for the same trial on every machine."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["data"] = self.data.model_dump()
        content["training"] = self.training.model_dump(exclude={"learning_rates"})
        content["pruning"] = None if self.pruning is None else self.pruning.model_dump()
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def identity(self) -> str:
        """A readable prefix and a hash of the configuration, such as
        ``large-sparse-3408B-seed0-lr0.01-5f0c2a9d1b``."""
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:10]
        return f"{self.arm}-{self.point}B-seed{self.seed}-lr{self.learning_rate:g}-{digest}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study worked out: its points from the smallest file up, and its trials in running order."""

    study: Study
    large_bytes: int
    points: tuple[Point, ...]
    trials: tuple[Trial, ...]


def plan(study: Study) -> Plan:
    """Solve for the sparsities and list the trials, seed by seed.

    Raises:
        ConfigurationError: an unknown family or metric, data that do not suffice, or a size that
            no sparsity of the large network reaches.
    """
    models = family(study.family)
    models.metric(study.choose_by)
    models.split(study.seeds[0], study.data)
    shapes = _shapes(models, study.large_width)
    points = tuple(
        _solve(study, width, _dense_bytes(models, width), shapes)
        for width in sorted(study.small_widths)
    )
    large_bytes = _dense_bytes(models, study.large_width)
    trials = tuple(
        Trial(
            family=study.family,
            arm=arm,
            point=point,
            width=width,
            sparsity=sparsity,
            seed=seed,
            learning_rate=rate,
            data=study.data,
            training=study.training,
            pruning=study.pruning if arm == SPARSE else None,
        )
        for seed in study.seeds
        for arm, point, width, sparsity in _arms(study, large_bytes, points)
        for rate in sorted(study.training.learning_rates)
    )
    return Plan(study, large_bytes, points, trials)


def footprint_at(shapes: Mapping[str, torch.Size], sparsity: float) -> Footprint:
    """The file of a network whose weight matrices all have ``sparsity``; vectors stay dense."""
    return billhook.expected_footprint(
        TensorSpec(name, tuple(shape), _nonzeros(shape, sparsity)) for name, shape in shapes.items()
    )


def _nonzeros(shape: torch.Size, sparsity: float) -> int:
    numel = shape.numel()
    return round((1.0 - sparsity) * numel) if len(shape) > 1 else numel


def _shapes(models: Family, width: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in models.build(width).state_dict().items()}


def _dense_bytes(models: Family, width: int) -> int:
    return footprint_at(_shapes(models, width), 0.0).file_bytes(CODINGS)


def _solve(study: Study, width: int, target: int, shapes: Mapping[str, torch.Size]) -> Point:
    """The lowest sparsity at which the large file is no larger than ``target`` bytes.

    Bytes fall as sparsity rises, so bisect on the number of weights kept, whole numbers.
    """
    weights = sum(shape.numel() for shape in shapes.values() if len(shape) > 1)

    def file_bytes(kept: int) -> int:
        return footprint_at(shapes, 1.0 - kept / weights).file_bytes(CODINGS)

    if file_bytes(1) > target:
        raise ConfigurationError(
            f"the dense file of width {width} has {target:,} bytes, but that of width "
            f"{study.large_width} needs {file_bytes(1):,} for its masks, biases and header alone: "
            "no sparsity reaches it; leave this width out, or make large_width smaller"
        )
    if file_bytes(weights) <= target:
        raise ConfigurationError(
            f"the file of width {study.large_width} is no larger than that of width {width} "
            f"({target:,} bytes) without any pruning: make large_width larger"
        )
    low, high = 1, weights  # file_bytes(low) <= target < file_bytes(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if file_bytes(middle) <= target else (low, middle)
    return Point(width, target, 1.0 - low / weights, file_bytes(low))


def _arms(
    study: Study, large_bytes: int, points: tuple[Point, ...]
) -> list[tuple[str, int, int, float]]:
    arms = [(LARGE, large_bytes, study.large_width, 0.0)]
    for point in points:
        arms.append((DENSE, point.dense_bytes, point.width, 0.0))
        arms.append((SPARSE, point.dense_bytes, study.large_width, point.sparsity))
    return arms
