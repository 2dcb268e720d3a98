"""Trained weights from files: those that a run starts from, and those of a teacher."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from billhook.distillation import Teacher
from billhook.errors import ConfigurationError
from billhook.format import load
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import Task

__all__ = ["load_weights", "teacher_for"]


def load_weights(model: nn.Module, path: Path, option: str) -> None:
    """Load a billhook or safetensors file, a saved state_dict or a run's checkpoint.

    Args:
        model: the network, in place.
        path: the file.
        option: what named it, for the messages.

    Raises:
        ConfigurationError: there is no such file, or it is of another network.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"{option} {path} is not a file: give a .safetensors file or a run's checkpoint.pt"
        )
    try:
        model.load_state_dict(_weights(path))
    except RuntimeError as error:
        raise ConfigurationError(f"{option} {path} is of another model: {error}") from None


def teacher_for(task: Task, recipe: Recipe) -> Teacher | None:
    """The recipe's teacher: the task's own network with the weights of the teacher's file.

    Raises:
        ConfigurationError: the task has no use for a teacher, or the file is not of its network.
    """
    section = recipe.distillation
    if section is None:
        return None
    if not task.learns_from_teachers:
        raise ConfigurationError(
            f"[distillation] is not for {type(task).__name__}, whose loss asks no teacher: use "
            "self.teacher in it and set learns_from_teachers = True"
        )
    network = copy.deepcopy(task.model)
    load_weights(network, Path(section.teacher), "distillation.teacher")
    return Teacher(network, section.hardness, section.temperature)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load(path)
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded["model"] if "model" in loaded and "recipe" in loaded else loaded
