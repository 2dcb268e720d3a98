"""Training recipes: data, read from the TOML files beside this module or from a file of yours."""

import math
import operator
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from billhook.errors import ConfigurationError
from billhook.settings import Section, faults

__all__ = [
    "Cosine",
    "Data",
    "Decay",
    "Distillation",
    "Optimizer",
    "Pruning",
    "Recipe",
    "load_recipe",
]


class Optimizer(Section):
    """A torch.optim class by name with its arguments; no weight decay on vectors (norm, bias)."""

    kind: Literal["SGD", "RMSprop", "Adam", "AdamW"]
    lr: float = Field(gt=0)
    arguments: dict[str, float | bool | tuple[float, float]] = Field(default={})
    weight_decay: float = Field(default=0.0, ge=0)
    undecayed: tuple[str, ...] = ()  # globs of parameter names, for example depthwise weights


class Decay(Section):
    """``lr * factor ** max(0, floor((t - start) / every))``, t, start and every in ``unit``."""

    kind: Literal["decay"]
    unit: Literal["epoch", "step"]
    start: float = Field(ge=0)
    every: float = Field(gt=0)
    factor: float = Field(gt=0, le=1)

    def factor_at(self, step: int, steps_per_epoch: int, total_steps: int) -> float:  # noqa: ARG002
        """What the learning rate is multiplied by at ``step``, counted from 0."""
        unit = steps_per_epoch if self.unit == "epoch" else 1
        # In steps, so that an epoch's first step is exactly its own.
        count = math.floor((step - self.start * unit) / (self.every * unit))
        return float(self.factor ** max(0, count))


class Cosine(Section):
    """Linear over the first ``warmup`` share of the steps, then half a cosine down to 0."""

    kind: Literal["cosine"]
    warmup: float = Field(ge=0, lt=1)

    def factor_at(self, step: int, steps_per_epoch: int, total_steps: int) -> float:  # noqa: ARG002
        """What the learning rate is multiplied by at ``step``, counted from 0."""
        warm = self.warmup * total_steps
        if step < warm:
            return (step + 1) / (warm + 1)
        return (1 + math.cos(math.pi * (step - warm) / (total_steps - warm))) / 2


class Data(Section):
    """How batches are made; what a family has no use for stays at its default."""

    pixels: int = 0
    augment: tuple[tuple[str, dict[str, Any]], ...] = ()  # kornia.augmentation classes, arguments
    # Of an image folder: crops as ImageNet's, else whole pictures. Written only where it is off.
    crop: bool = Field(default=True, exclude_if=bool)
    workers: int = Field(default=0, ge=0)
    train: int = Field(default=0, ge=0)  # pictures, words, characters or pairs; 0: all there are
    validation: float = Field(default=0.0, ge=0, lt=1)  # share of the training pictures held out
    window: int = 0  # text: words or characters in a window, the steps of back-propagation
    # Different words of text, rarer ones become <unk>; 0: all. Written only where set, as `bf16`.
    vocab: int = Field(default=0, ge=0, exclude_if=operator.not_)
    # What text is made of. Written only where it is not words.
    unit: Literal["word", "character"] = Field(default="word", exclude_if=lambda u: u == "word")
    source: str = ""  # translation: suffixes of the files
    target: str = ""
    pieces: int = 0  # translation: size of a side's BPE vocabulary
    max_length: int = 0  # translation: pieces, longer training pairs are left out


class Training(Section):
    """Length of the run and what is done in every step.

    With ``bf16`` forward and backward passes compute in bfloat16; weights, optimizer and evaluation
    stay in fp32.
    """

    batch_size: int = Field(gt=0)
    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    aux_weight: float = 0.0
    batch_norm_decay: float = Field(default=0.9, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    evaluate_every: float = Field(default=1.0, gt=0)  # epochs
    checkpoint_every: int = Field(default=1000, gt=0)  # steps
    # Written only where set: recipes, and the identities of their runs, are older than it.
    bf16: bool = Field(default=False, exclude_if=operator.not_)
    seed: int = 0


class Pruning(Section):
    """The default window, in shares of the run's steps, and the number of mask updates after t_0.

    The paper states neither; billhook chose these. ``frequency`` (steps) takes precedence over
    ``updates``. The curve is eq. 1's unless another one is named; one-shot prunes once, at the
    window's end; constant is at the final sparsity from the window's start, and its masks change
    until the end; alternating is AC/DC with ``updates`` phases; cyclic repeats the
    cubic curve. What is pruned together, what a
    weight is worth and how weights return are the paper's unless ``granularity`` (such as block-8x1
    or nm-2x4), ``criterion`` and ``regrow`` say otherwise.
    """

    begin: float = Field(ge=0, lt=1)
    end: float = Field(gt=0, le=1)
    updates: int = Field(gt=0)
    frequency: int | None = Field(default=None, gt=0)
    curve: Literal["cubic", "linear", "one-shot", "constant", "alternating", "cyclic"] = "cubic"
    # Written only where set, as bf16 above.
    granularity: Annotated[
        str, Field(pattern=r"^(unstructured|rows|per-row|block-[1-9]\d*x[1-9]\d*|nm-\d+x\d+)$")
    ] = Field(default="unstructured", exclude_if="unstructured".__eq__)
    criterion: Literal["magnitude", "random", "first-order", "fisher", "movement", "wanda"] = Field(
        default="magnitude", exclude_if="magnitude".__eq__
    )
    regrow: Literal["value", "gradient", "never"] = Field(
        default="value", exclude_if="value".__eq__
    )


class Distillation(Section):
    """The trained network that is learnt from as well, and its share of the loss.

    ``teacher`` is a file of the recipe's own network: of ``billhook.save``, of safetensors, or a
    checkpoint. The others are those of :class:`billhook.Teacher`.
    """

    teacher: str = Field(min_length=1)
    hardness: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)


class Recipe(Section):
    """Everything that decides a training run but the data and the machine.

    ``notes`` says which values are the original's and which were chosen here.
    """

    family: str
    notes: str
    model: dict[str, float | int | str | bool | None] = Field(default={})
    data: Data
    optimizer: Optimizer
    schedule: Annotated[Decay | Cosine, Field(discriminator="kind")]
    training: Training
    pruning: Pruning
    # Written only where set, as bf16 above.
    distillation: Distillation | None = Field(default=None, exclude_if=lambda each: each is None)

    def total_steps(self, steps_per_epoch: int) -> int:
        """The length of the run in optimizer steps.

        Raises:
            ConfigurationError: not exactly one of ``epochs`` and ``steps`` is given, or the run
                is shorter than a step.
        """
        epochs, steps = self.training.epochs, self.training.steps
        if (epochs is None) == (steps is None):
            raise ConfigurationError(
                f"[training] has epochs={epochs} and steps={steps}: give exactly one of them"
            )
        total = steps if steps is not None else round((epochs or 0) * steps_per_epoch)
        if total < 1:
            raise ConfigurationError(
                f"{epochs} epochs of {steps_per_epoch} steps are less than one step: train longer"
            )
        return total

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The rate of optimizer step ``step``, counted from 0."""
        total = self.total_steps(steps_per_epoch)
        return self.optimizer.lr * self.schedule.factor_at(step, steps_per_epoch, total)

    def lasting(self, steps: int, steps_per_epoch: int) -> "Recipe":
        """A copy that takes so many steps, its learning rate's schedule stretched with it."""
        stretch = steps / self.total_steps(steps_per_epoch)
        changes: dict[str, dict[str, Any]] = {"training": {"epochs": None, "steps": steps}}
        if isinstance(self.schedule, Decay):
            start, every = self.schedule.start * stretch, self.schedule.every * stretch
            changes["schedule"] = {"start": start, "every": every}
        return self.changed(**changes)

    def changed(self, **sections: dict[str, Any]) -> "Recipe":
        """A copy with some values replaced, section by section, and checked again."""
        values = self.model_dump()
        for section, changes in sections.items():
            values[section] = (values.get(section) or {}) | changes
        return _checked(values, "the changed recipe")


def load_recipe(family: str | None, name: str) -> Recipe:
    """The recipe ``name`` ("paper" or "laptop", or a path to a TOML file) of a model family.

    A file's recipe of whatever family when ``family`` is None.

    Raises:
        ConfigurationError: no such recipe, or one with a wrong value: section and value are named.

    >>> recipe = load_recipe("ptb_lstm", "paper")
    >>> [round(recipe.learning_rate(100 * epoch, steps_per_epoch=100), 3) for epoch in range(7)]
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.125]
    """
    own = resources.files("billhook.tasks") / "recipes" / f"{family}.{name}.toml"
    path = Path(name)
    if own.is_file():
        text, source = own.read_text(), f"{family}.{name}"
    elif path.suffix == ".toml" and path.is_file():
        text, source = path.read_text(), str(path)
    else:
        raise ConfigurationError(
            f"there is no recipe {name!r} for {family}: take "
            f"{' or '.join([*_shipped(family or ''), 'the path of a .toml file'])}"
        )
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"recipe {source} is not TOML: {error}") from None
    recipe = _checked(values, f"recipe {source}")
    if family is not None and recipe.family != family:
        raise ConfigurationError(f"recipe {source} is for {recipe.family}, not for {family}")
    return recipe


def _shipped(family: str) -> list[str]:
    folder = resources.files("billhook.tasks") / "recipes"
    names = (each.name for each in folder.iterdir())
    own = (name for name in names if name.startswith(f"{family}."))
    return sorted(repr(name.removeprefix(f"{family}.").removesuffix(".toml")) for name in own)


def _checked(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {faults(error, Recipe)}") from None
