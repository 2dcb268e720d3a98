"""The grid of a study: sizes at which the files are equal, and every trial that has to be run."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from billhook.errors import BillhookError, ConfigurationError
from billhook.study.operations import operations, uses
from billhook.study.sizes import file_bytes, nonzeros, sparsity_for, width_for
from billhook.study.spec import Study
from billhook.study.subject import Place, Subject
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import Task
from billhook.training.parts import granularity_of

__all__ = [
    "ARMS",
    "DENSE",
    "LARGE",
    "LONGER",
    "SPARSE",
    "Condition",
    "Plan",
    "Point",
    "Trial",
    "plan",
    "scheme_label",
]

#: The arms: the small networks, the large one pruned, for reference the large one left dense, and
#: as a control a small one trained for as many operations as the large one.
DENSE, SPARSE, LARGE, LONGER = "small-dense", "large-sparse", "large-dense", "small-dense-longer"
_SINGLE = "unstructured"  # the granularity that is not a variant's
ARMS = DENSE, SPARSE, LARGE, LONGER


@dataclasses.dataclass(frozen=True)
class Point:
    """One size of file: a small dense network, and the large one pruned to match it.

    Where the sparsity is solved for, ``sparse_bytes`` is the largest size not above
    ``dense_bytes``; where the width is, it may be larger, and ``mismatch`` says by how much. Where
    the codings' bytes depend on where the nonzeros are, it is the size expected of random masks.
    """

    width: float
    dense_bytes: int
    sparsity: float
    sparse_bytes: int

    @property
    def mismatch(self) -> int:
        """Bytes by which the sparse file is larger than the dense one."""
        return self.sparse_bytes - self.dense_bytes


def scheme_label(scheme: str) -> str:
    """The scheme where it has to be named: "" for the standard one, and where there is none.

    >>> scheme_label("standard"), scheme_label(""), scheme_label("global")
    ('', '', 'global')
    """
    return "" if scheme == "standard" else scheme


@dataclasses.dataclass(frozen=True)
class Condition:
    """What distinguishes the trials of one study."""

    arm: str
    scheme: str  # of the sparse arm, such as "standard" or "global"; else empty
    variant: str  # what a study of tuning varies, such as "frequency=100"
    point: int  # the bytes of the small dense file it is compared at
    width: float
    sparsity: float
    seed: int
    learning_rate: float
    dropout: float | None
    steps: int


@dataclasses.dataclass(frozen=True)
class Trial(Condition):
    """One network to train: its whole configuration. Equal configurations are the same trial.

    ``expected_*`` and the operations follow from the rest: the files of the standard and layerwise
    schemes have exactly ``expected_bytes`` where the codings allow it;
    ``training_operations`` are the multiply-adds of three forward passes over all examples, the
    weights unpruned.
    """

    family: str
    kind: str
    data_description: str
    codings: tuple[str, ...]
    recipe: Recipe = dataclasses.field(hash=False)  # with all of the above in it
    expected_bytes: int
    expected_nonzero: int
    training_operations: int
    inference_operations: int

    @property
    def group(self) -> tuple[str, str, str, int, int]:
        """Arm, scheme, variant, point and seed: the trials among which validation data chooses."""
        return self.arm, self.scheme, self.variant, self.point, self.seed

    @property
    def setting(self) -> tuple[float, float | None]:
        """What the trials of a group differ in."""
        return self.learning_rate, self.dropout

    @property
    def canonical(self) -> str:
        """The configuration as JSON, the same text for the same trial on every machine."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("training_operations", "inference_operations"):
            del content[name]  # counted, not asked for
        content["found"] = content.pop("data_description")  # its name when identities were fixed
        content["recipe"] = self.recipe.model_dump(mode="json", exclude={"notes"})
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @functools.cached_property
    def identity(self) -> str:
        """A readable prefix and a hash of the configuration, such as
        ``large-sparse-3408B-seed0-lr0.01-5f0c2a9d1b``."""
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:10]
        kind = "-".join(each for each in (self.arm, self.variant.replace(",", "-")) if each)
        if label := scheme_label(self.scheme):
            kind += f"-{label}"
        rate = f"lr{self.learning_rate:g}"
        if self.dropout is not None:
            rate += f"-dropout{self.dropout:g}"
        return f"{kind}-{self.point}B-seed{self.seed}-{rate}-{digest}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study worked out: its points from the smallest file up, and its trials in running order:
    seed by seed, after them the controls seed by seed.

    Where the first seed's validation data choose for all, ``trials`` has every combination of every
    seed, of which the other seeds will run one.
    """

    study: Study
    points: tuple[Point, ...]
    trials: tuple[Trial, ...]

    @property
    def runs(self) -> tuple[Trial, ...]:
        """As many trials as will be run; one stands for whichever of its group is chosen."""
        if self.study.tune == "each-seed":
            return self.trials
        first = self.study.seeds[0]
        one_a_group = {trial.group: trial for trial in self.trials if trial.seed != first}
        return (*(t for t in self.trials if t.seed == first), *one_a_group.values())


def plan(study: Study, place: Place = Place(), *, dry: bool = False) -> Plan:
    """Solve for sparsities and widths and list the trials; nothing is trained.

    Args:
        study: as loaded.
        place: where data and own modules are.
        dry: count on noise of the recipe's shapes; for that the recipe has to give
            ``[data] train`` and the model's classes or vocabulary. Such a plan cannot be run.

    Raises:
        ConfigurationError: an unknown family or metric, a model that ignores its width, an image
            task that validates on test data, or a size that cannot be reached.
        DataError: data that are not there or do not suffice.
    """
    return _Planner(study, place, dry).plan()


class _Planner:
    """The counts that a plan needs, each made once."""

    def __init__(self, study: Study, place: Place, dry: bool) -> None:
        self.subject = Subject(study.family, study.task, place, dry)
        self.recipe = study.recipe
        self.task = self.subject.task(study.recipe, study.large_width)
        self.study = _with_metrics(study, self.task, dry=dry)
        if ":" in study.family:
            _check_metrics(self.study, self.task)
        self.steps_per_epoch = _dry_epoch(study) if dry else self.task.steps_per_epoch
        self.models: dict[float, nn.Module] = {}
        self.left: dict[tuple[float, float, str], dict[str, int]] = {}
        self.bytes: dict[tuple[float, float, str], int] = {}
        self.uses: dict[tuple[float, bool], dict[str, float]] = {}

    def plan(self) -> Plan:
        points = self._points()
        # The controls come last, as they cost most: what they are beside is complete before.
        trials = tuple(
            self._trial(arm, seed, rate, dropout)
            for control in (False, True)
            for seed in self.study.seeds
            for arm in self._arms(points)
            if (arm["arm"] == LONGER) == control
            for rate in sorted(self.study.learning_rates)
            for dropout in sorted(self.study.dropouts) or (None,)
        )
        return Plan(self.study, points, trials)

    def _model(self, width: float) -> nn.Module:
        if width not in self.models:
            self.models[width] = self.subject.model(self.task, self.recipe, width)
        return self.models[width]

    def _points(self) -> tuple[Point, ...]:
        study = self.study
        large = self._model(study.large_width)
        step = self.subject.width_step
        for width in (study.large_width, *study.small_widths):
            if step == 1.0 and width != int(width):
                raise ConfigurationError(f"width {width} of {study.family} is not a whole number")
        found = {}
        solved = [
            width_for(self._bytes, size, step, study.large_width) for size in study.small_bytes
        ]
        for width in (*study.small_widths, *solved):
            size = self._bytes(width)
            if size == self._bytes(study.large_width):
                raise ConfigurationError(
                    f"{study.family} has {size:,} bytes at widths {width:g} and "
                    f"{study.large_width:g}: it has to use the width it is given"
                )
            sparsity = sparsity_for(large, size, study.codings)
            found[f"width {width:g}"] = self._point(width, sparsity)
        for sparsity in study.sparsities:
            size = self._bytes(study.large_width, sparsity)
            width = width_for(self._bytes, size, step, study.large_width)
            found[f"sparsity {sparsity:g}"] = self._point(width, sparsity)
        ordered = sorted(found.items(), key=lambda entry: entry[1].dense_bytes)
        for (one, a), (other, b) in itertools.pairwise(ordered):
            if a.dense_bytes == b.dense_bytes:
                raise ConfigurationError(
                    f"{one} and {other} meet the same dense file of {a.dense_bytes:,} bytes: leave "
                    "one of them out"
                )
        return tuple(point for _, point in ordered)

    def _point(self, width: float, sparsity: float) -> Point:
        sparse = self._bytes(self.study.large_width, sparsity)
        return Point(width, self._bytes(width), sparsity, sparse)

    def _arms(self, points: tuple[Point, ...]) -> Iterator[dict[str, Any]]:
        study = self.study
        large: dict[str, Any] = {"width": study.large_width, "scheme": "", "variant": ""}
        point = self._bytes(study.large_width)
        yield large | {"arm": LARGE, "point": point, "sparsity": 0.0}
        for index, each in enumerate(points):
            here = {"point": each.dense_bytes, "sparsity": 0.0}
            dense = large | here | {"width": each.width}
            yield dense | {"arm": DENSE}
            middle = index == len(points) // 2
            if study.control == "every-size" or (study.control and middle):
                yield dense | {"arm": LONGER}
            sparse = large | here | {"arm": SPARSE, "sparsity": each.sparsity}
            for scheme in study.schemes:
                yield sparse | {"scheme": scheme}
                for variant in study.variants:
                    text = ",".join(f"{key}={value}" for key, value in variant.items())
                    yield sparse | {"scheme": scheme, "variant": text, "pruning": variant}

    def _trial(self, arm: dict[str, Any], seed: int, rate: float, dropout: float | None) -> Trial:
        settings = dict(arm)
        width, sparsity = settings["width"], settings["sparsity"]
        recipe = self.subject.recipe(self.recipe, width, dropout).changed(
            optimizer={"lr": rate},
            training={"seed": seed},
            pruning=settings.pop("pruning", {}),
        )
        steps = recipe.total_steps(self.steps_per_epoch)
        step_cost = self._operations(width, 0.0, training=True) * 3 * self._examples(recipe)
        if arm["arm"] == LONGER:
            large = self._operations(self.study.large_width, 0.0, training=True)
            steps = round(steps * large / self._operations(width, 0.0, training=True))
            recipe = recipe.lasting(steps, self.steps_per_epoch)
        return Trial(
            family=self.study.family,
            kind=self.study.task,
            data_description=self.study.data_description,
            seed=seed,
            learning_rate=rate,
            dropout=dropout,
            steps=steps,
            codings=self.study.codings,
            recipe=recipe,
            expected_bytes=self._bytes(width, sparsity, recipe.pruning.granularity),
            expected_nonzero=sum(self._left(width, sparsity, recipe.pruning.granularity).values()),
            training_operations=step_cost * steps,
            inference_operations=self._operations(width, sparsity, training=False),
            **settings,
        )

    def _examples(self, recipe: Recipe) -> int:
        """Examples in a step, where the task counts them in a batch of two rows if it is dry."""
        each = self.task.examples_per_step
        return each // 2 * recipe.training.batch_size if self.subject.dry else each

    def _operations(self, width: float, sparsity: float, *, training: bool) -> int:
        if (width, training) not in self.uses:
            model = self.subject.model(self.task, self.recipe, width, "cpu")
            with _at_work(self.study, width):
                for mode in (True, False):
                    self.uses[width, mode] = uses(self.task, model, training=mode)
        return operations(self.uses[width, training], self._left(width, sparsity))

    def _left(self, width: float, sparsity: float, pattern: str = _SINGLE) -> dict[str, int]:
        key = width, sparsity, pattern if sparsity else _SINGLE
        if key not in self.left:
            self.left[key] = nonzeros(self._model(width), sparsity, granularity_of(key[2]))
        return self.left[key]

    def _bytes(self, width: float, sparsity: float = 0.0, pattern: str = _SINGLE) -> int:
        key = width, sparsity, pattern if sparsity else _SINGLE
        if key not in self.bytes:
            model, codings = self._model(width), self.study.codings
            self.bytes[key] = file_bytes(model, sparsity, codings, granularity_of(key[2]))
        return self.bytes[key]


@contextlib.contextmanager
def _at_work(study: Study, width: float) -> Iterator[None]:
    """Name the network if it fails on data: whatever a user's own raises."""
    try:
        yield
    except BillhookError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{study.family} at width {width:g} fails on a batch of the data: "
            f"{type(error).__name__}: {error}"
        ) from error


def _with_metrics(study: Study, task: Task, *, dry: bool) -> Study:
    """The study with the metrics and data of its task, and the names it left open.

    Raises:
        ConfigurationError: a metric that the task does not measure, on the data it is needed for.
    """
    if not task.metrics:
        raise ConfigurationError(f"the task of {study.family} names no metrics: set Task.metrics")
    names = ("metrics", "data_description", "own_splits")
    study = study.model_copy(update={name: getattr(task, name) for name in names})
    usable = [metric.name for metric in task.metrics if not metric.test_only]
    metric = study.measured(study.metric or task.metrics[0].name)
    choose_by = study.measured(study.choose_by or usable[0])
    if choose_by.test_only:
        raise ConfigurationError(
            f"choose_by {choose_by.name!r} is measured on test data alone: use one of "
            f"{', '.join(usable)}"
        )
    if task.validates_on_test and not dry:
        raise ConfigurationError(
            f"{task.data_description}: there are no validation data to choose by, and test data "
            "are not for that; give validation = 0.1 in [overrides.data], or another share"
        )
    return study.model_copy(update={"metric": metric.name, "choose_by": choose_by.name})


def _check_metrics(study: Study, task: Task) -> None:
    """A task of the user's own returns what it says: seen on its untrained model.

    Raises:
        ConfigurationError: a metric never appears.
    """
    with torch.no_grad(), _at_work(study, study.large_width):
        found = task.evaluate(task.model.eval(), "valid")
    for metric in study.metrics:
        if not metric.test_only and metric.name not in found:
            raise ConfigurationError(
                f"metric {metric.name!r} never appears: evaluate(model, 'valid') of {study.family} "
                f"returns {', '.join(found)}"
            )


def _dry_epoch(study: Study) -> int:
    """Steps an epoch of a data set that is known by its size alone."""
    data, batch = study.recipe.data, study.recipe.training.batch_size
    if not data.train:
        raise ConfigurationError(
            f"study {study.name} does not say how many examples it trains on: give --data, or "
            "train in [overrides.data]"
        )
    return (data.train // batch - 1) // data.window if data.window else data.train // batch
