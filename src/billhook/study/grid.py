"""The grid of a study: sizes at which the files are equal, and every trial that has to be run."""

import dataclasses
import hashlib
import json

from billhook.study.family import family
from billhook.study.sizes import file_bytes, shapes_of, sparsity_for
from billhook.study.spec import Data, Pruning, Study, Training

__all__ = [
    "DENSE",
    "LARGE",
    "LONGER",
    "SPARSE",
    "Plan",
    "Point",
    "Trial",
    "plan",
    "solve",
]

#: The arms: the small networks, the large one pruned, for reference the large one left dense, and
#: as a control the small ones trained for as many operations as the large one.
DENSE, SPARSE, LARGE, LONGER = "small-dense", "large-sparse", "large-dense", "small-dense-longer"


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
    scheme: str  # standard, layerwise or global for the sparse arm
    variant: str  # what a study of tuning varies, such as "frequency=100"
    point: int  # the bytes of the small dense file it is compared at
    width: float
    sparsity: float
    seed: int
    learning_rate: float
    dropout: float | None
    steps: int
    data: Data
    training: Training
    pruning: Pruning | None

    @property
    def group(self) -> tuple[str, str, str, int, int]:
        """Arm, scheme, variant, point and seed: the trials among which validation data chooses."""
        return self.arm, self.scheme, self.variant, self.point, self.seed

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
    points = solve(study)
    large_bytes = file_bytes(shapes_of(study.family, study.large_width), 0.0)
    trials = tuple(
        Trial(
            family=study.family,
            arm=arm,
            scheme="standard" if arm == SPARSE else "",
            variant="",
            point=point,
            width=width,
            sparsity=sparsity,
            seed=seed,
            learning_rate=rate,
            dropout=None,
            steps=study.training.steps,
            data=study.data,
            training=study.training,
            pruning=study.pruning if arm == SPARSE else None,
        )
        for seed in study.seeds
        for arm, point, width, sparsity in _arms(study, large_bytes, points)
        for rate in sorted(study.training.learning_rates)
    )
    return Plan(study, points, trials)


def solve(study: Study) -> tuple[Point, ...]:
    """The points of a study, from the smallest file up.

    Raises:
        ConfigurationError: a size that no sparsity of the large network reaches.
    """
    large = shapes_of(study.family, study.large_width)
    points = []
    for width in sorted(study.small_widths):
        target = file_bytes(shapes_of(study.family, width), 0.0)
        sparsity = sparsity_for(large, target)
        points.append(Point(width, target, sparsity, file_bytes(large, sparsity)))
    return tuple(points)


def _arms(
    study: Study, large_bytes: int, points: tuple[Point, ...]
) -> list[tuple[str, int, int, float]]:
    arms = [(LARGE, large_bytes, study.large_width, 0.0)]
    for point in points:
        arms.append((DENSE, point.dense_bytes, point.width, 0.0))
        arms.append((SPARSE, point.dense_bytes, study.large_width, point.sparsity))
    return arms
