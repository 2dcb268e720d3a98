"""A study as its author writes it: a TOML file, checked before anything runs."""

import importlib.resources
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from billhook import Cubic
from billhook.errors import ConfigurationError

__all__ = ["Data", "Pruning", "Study", "Training", "load_study", "shipped_studies"]

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Part):
    """How many examples are in each part of a seed's split, drawn without replacement."""

    train: Positive
    validation: Positive
    test: Positive


class Training(_Part):
    """The recipe, the same for every arm: AdamW with a cosine decay to zero."""

    steps: Positive
    batch_size: Positive
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Pruning(_Part):
    """The window of eq. 1 for the large network; its final sparsity is solved for."""

    begin_step: Annotated[int, Field(ge=0)]
    end_step: Positive
    frequency: Positive

    def schedule(self, final_sparsity: float) -> Cubic:
        """Eq. 1 up to ``final_sparsity`` over this window."""
        return Cubic(final_sparsity, self.begin_step, self.end_step, frequency=self.frequency)


class Study(_Part):
    """One comparison at equal bytes: small dense networks against one large pruned one.

    Args:
        name: names the default results folder.
        family: which models and data (see :mod:`billhook.study.family`).
        seeds: each draws its own data split, initial weights and batch order; both arms of a seed
            share the split and the batches.
        small_widths: the dense networks; each file's size is a point of comparison.
        large_width: the network that is pruned to each of those sizes.
        choose_by: the metric that chooses among ``learning_rates``, on validation data.
        margin: the relative loss that still counts as minimal, fixed before anything runs.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    family: str
    seeds: Annotated[tuple[int, ...], Field(min_length=2)]
    small_widths: Annotated[tuple[Positive, ...], Field(min_length=1)]
    large_width: Positive
    choose_by: str
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    data: Data
    training: Training
    pruning: Pruning

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("seeds", "small_widths"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} repeat themselves: give each value once")
        if max(self.small_widths) >= self.large_width:
            raise ValueError(
                f"small_widths reach {max(self.small_widths)}, large_width is {self.large_width}: "
                "the large network must be the larger one"
            )
        self.pruning.schedule(0.5)  # the window itself: off the grid, empty
        if self.pruning.end_step > self.training.steps:
            raise ValueError(
                f"pruning.end_step {self.pruning.end_step} lies behind the last of "
                f"{self.training.steps} training.steps: end the pruning earlier or train longer"
            )
        return self


def shipped_studies() -> list[str]:
    """The names of the studies that come with billhook.

    >>> "digits" in shipped_studies()
    True
    """
    folder = importlib.resources.files("billhook") / "studies"
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_study(name_or_path: str) -> Study:
    """The study of that name that ships with billhook, or the one in a TOML file.

    Raises:
        ConfigurationError: no such study, no TOML, or values that cannot be right.

    >>> load_study("digits").large_width
    64
    """
    if name_or_path in shipped_studies():
        source = importlib.resources.files("billhook") / "studies" / f"{name_or_path}.toml"
        text = source.read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigurationError(
                f"no study {name_or_path!r}: give the path of a TOML file, or one of those that "
                f"ship with billhook: {', '.join(shipped_studies())}"
            )
        text = path.read_text(encoding="utf-8")
    try:
        return Study.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"study {name_or_path!r} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(f"study {name_or_path!r}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    """Each fault with its place, value and what is expected there."""
    faults = []
    for fault in error.errors():
        place = ".".join(map(str, fault["loc"]))
        value = "" if fault["type"] == "missing" or not place else f" {fault['input']!r}"
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{place}{value}: {message}" if place else message)
    return "; ".join(faults)
