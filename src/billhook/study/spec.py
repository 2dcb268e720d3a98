"""A study as its author writes it: a TOML file, checked before anything runs."""

import importlib.resources
import re
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, ValidationError, model_validator

from billhook.errors import ConfigurationError
from billhook.settings import Section, faults
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Pruning, Recipe, load_recipe
from billhook.tasks.task import Metric

__all__ = ["Study", "load_study", "question", "shipped_studies", "study_folder"]

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
# Not relative_index: its bytes grow where nonzeros are clustered, beyond those planned.
Scheme = Literal["standard", "layerwise", "global", "lamp", "erdos-renyi", "erdos-renyi-kernel"]
Coding = Literal["auto", "dense", "bitmask", "entropy"]


class Study(Section):
    """One comparison at equal bytes: small dense networks against one large pruned one.

    Args:
        name: names the default results folder; the file's own name unless given.
        family: digits, mobilenet_v1, inception_v3, ptb_lstm, gnmt, or ``module:function`` of your
            own, the module beside the study file.
        task: for a function of a width that returns a network: what it learns. Without it, an own
            function takes a width and a recipe and returns a :class:`billhook.tasks.task.Task`.
        recipe: how everything is trained; the same for every arm.
        large_width: the network that is pruned.
        small_widths: dense networks; each file's size is a point of comparison.
        small_bytes: sizes of file; the width of the dense network is solved for.
        sparsities: of the large network; the dense width of as many bytes is solved for.
        schemes: standard (every layer alike), layerwise (one after the other), global, lamp,
            erdos-renyi, erdos-renyi-kernel (see docs/pruning.md).
        seeds: each draws its own initial weights and order of examples.
        codings: whose bytes count; each tensor takes the smallest of them. ``["auto"]`` is all that
            billhook has, what ``billhook.save`` writes.
        metric: what the verdict is about; the task's first unless given.
        choose_by: the metric on validation data that chooses among the trials of an arm; the
            task's first that is measured on validation data unless given.
        learning_rates, dropouts: each combination is a trial, the same ones for every arm.
        tune: whose validation data choose among an arm's trials at a point: every seed's for itself
            (``each-seed``), or the first seed's for all of them (``first-seed``), which tries the
            combinations on that seed alone.
        control: also train the small dense network of the middle point, or of ``"every-size"``,
            for as many operations as the large one.
        values: weights in fewer bits, in which the chosen networks are stored and measured once
            more at the end, nothing trained for it.
        margin: a loss below this share of the dense metric counts as minimal.
        variants: changes of the recipe's ``[pruning]``; the large network is pruned so too.
        metrics, data_description, own_splits: of the task and its data; filled in by
            :func:`billhook.study.grid.plan`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    family: str
    task: Literal["", "classification", "language"] = ""
    recipe: Recipe
    large_width: Rate
    small_widths: tuple[Rate, ...] = ()
    small_bytes: tuple[Annotated[int, Field(gt=0)], ...] = ()
    sparsities: tuple[Share, ...] = ()
    schemes: Annotated[tuple[Scheme, ...], Field(min_length=1)] = ("standard",)
    seeds: Annotated[tuple[int, ...], Field(min_length=2)] = (0, 1, 2, 3, 4)
    codings: Annotated[tuple[Coding, ...], Field(min_length=1)] = ("dense", "bitmask")
    metric: str = ""
    choose_by: str = ""
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    dropouts: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    tune: Literal["each-seed", "first-seed"] = "each-seed"
    control: bool | Literal["every-size"] = False
    values: tuple[Literal["fp16", "bf16", "int8"], ...] = ()
    margin: Share = 0.01
    variants: tuple[dict[str, float | int | str], ...] = ()
    metrics: tuple[Metric, ...] = ()
    data_description: str = Field(  # "found" in the study.json of older folders
        default="", validation_alias=AliasChoices("data_description", "found")
    )
    own_splits: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in (
            *("seeds", "small_widths", "small_bytes", "sparsities", "schemes", "codings"),
            *("learning_rates", "dropouts"),
        ):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} repeat themselves: give each value once")
        if not (self.small_widths or self.small_bytes or self.sparsities):
            raise ValueError("nothing to compare: give small_widths, small_bytes or sparsities")
        if self.small_widths and max(self.small_widths) >= self.large_width:
            raise ValueError(
                f"small_widths reach {max(self.small_widths):g}, large_width is "
                f"{self.large_width:g}: the large network must be the larger one"
            )
        if "auto" in self.codings and len(self.codings) > 1:
            raise ValueError('codings: "auto" is all of them, so give it alone')
        with_dropout = [name for name, family in FAMILIES.items() if family.dropout]
        if self.dropouts and self.family not in with_dropout:
            raise ValueError(
                f"dropouts are for {' and '.join(with_dropout)}, family is {self.family!r}"
            )
        if self.task and ":" not in self.family:
            raise ValueError(f"task belongs to a module:function, family is {self.family!r}")
        for variant in self.variants:
            try:
                Pruning.model_validate(self.recipe.pruning.model_dump() | variant)
            except ValidationError as error:
                raise ValueError(f"variants {variant}: {faults(error, Pruning)}") from None
        return self

    @property
    def runs(self) -> int:
        """How many trials the study runs.

        >>> load_study("digits").runs
        390
        """
        points = len(self.small_widths) + len(self.small_bytes) + len(self.sparsities)
        sparse = len(self.schemes) * (1 + len(self.variants))
        controls = points if self.control == "every-size" else int(self.control)
        arms = 1 + points * (1 + sparse) + controls
        trials = len(self.learning_rates) * max(1, len(self.dropouts))
        tuned = len(self.seeds) if self.tune == "each-seed" else 1
        return arms * (tuned * trials + len(self.seeds) - tuned)

    @property
    def watched(self) -> Metric:
        """The first metric that validation data have.

        Raises:
            ConfigurationError: there is none.
        """
        for metric in self.metrics:
            if not metric.test_only:
                return metric
        raise ConfigurationError(f"study {self.name} has no metric on validation data")

    def measured(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            ConfigurationError: there is none.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = ", ".join(metric.name for metric in self.metrics)
        raise ConfigurationError(
            f"metric {name!r} is not a metric of this family: use one of {known}"
        )


def shipped_studies() -> list[str]:
    """The names of the studies that come with billhook.

    >>> "digits" in shipped_studies()
    True
    """
    folder = importlib.resources.files("billhook") / "studies"
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def question(name: str) -> str:
    """What a study that ships with billhook asks: the first sentence of its file's comment.

    >>> question("minimal-tuning")
    'How much does the pruning schedule matter?'
    """
    text = _shipped_file(name).read_text(encoding="utf-8")
    comment = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    sentence, end, _ = re.split(r"([.?])(?:\s|$)", " ".join(comment), maxsplit=1)
    return sentence + end


def study_folder(name_or_path: str) -> Path | None:
    """The folder of a study file, where a model of the user's own is looked for."""
    return None if name_or_path in shipped_studies() else Path(name_or_path).resolve().parent


def load_study(name_or_path: str) -> Study:
    """The study of that name that ships with billhook, or the one in a TOML file.

    Raises:
        ConfigurationError: no such study, no TOML, or values that cannot be right.

    >>> load_study("digits").large_width
    64.0
    """
    if name_or_path in shipped_studies():
        text, stem = _shipped_file(name_or_path).read_text(encoding="utf-8"), name_or_path
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigurationError(
                f"no study {name_or_path!r}: give the path of a TOML file, or one of those that "
                f"ship with billhook: {', '.join(shipped_studies())}"
            )
        text, stem = path.read_text(encoding="utf-8"), path.stem
    try:
        values = {"name": stem} | tomllib.loads(text)
        for name in ("metrics", "data_description", "found", "own_splits"):
            if name in values:
                raise ConfigurationError(f"{name} is not for study files: leave it out")
        values["recipe"] = _recipe(values, study_folder(name_or_path))
        return Study.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"study {name_or_path!r} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(f"study {name_or_path!r}: {faults(error, Study)}") from None


def _shipped_file(name: str) -> Traversable:
    return importlib.resources.files("billhook") / "studies" / f"{name}.toml"


def _recipe(values: dict[str, Any], folder: Path | None) -> Recipe:
    """The recipe that ``recipe`` names, with the study's ``overrides`` in it.

    ``laptop`` is the family's own, ``ptb_lstm.laptop`` another one's, ``own.toml`` a file beside
    the study.
    """
    name, family = str(values.get("recipe", "laptop")), str(values.get("family"))
    if name.endswith(".toml"):
        name = str((folder or Path()) / name)
    elif "." in name:
        family, _, name = name.partition(".")
    recipe = load_recipe(None if name.endswith(".toml") else family, name)
    overrides = values.pop("overrides", {})
    misplaced = set(values) & (set(Recipe.model_fields) - set(Study.model_fields))
    if misplaced:
        section = min(misplaced)
        raise ConfigurationError(
            f"[{section}] is a section of the recipe: write [overrides.{section}]"
        )
    unknown = [section for section in overrides if section not in Recipe.model_fields]
    if unknown:
        raise ConfigurationError(
            f"unknown key overrides.{unknown[0]}: the sections are {', '.join(Recipe.model_fields)}"
        )
    return recipe.changed(**overrides)
