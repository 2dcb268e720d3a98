"""Settings files: sections checked by pydantic, and errors in plain words."""

import difflib
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Section", "faults"]


class Section(BaseModel):
    """Settings that cannot be changed, and in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def faults(error: ValidationError, model: type[BaseModel]) -> str:
    """Each fault with its place, value and what is expected; unknown keys with the nearest one.

    >>> class Run(Section):
    ...     steps: int
    >>> try:
    ...     Run.model_validate({"stepz": 3})
    ... except ValidationError as error:
    ...     print(faults(error, Run))
    steps: Field required; unknown key stepz: did you mean steps?
    """
    return "; ".join(_fault(fault, model) for fault in error.errors())


def _fault(fault: Any, model: type[BaseModel]) -> str:
    place = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = _keys(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
        return f"unknown key {place}: {hint}"
    if not place:
        return str(message)
    value = "" if fault["type"] == "missing" else f" {fault['input']!r}"
    return f"{place}{value}: {message}"


def _keys(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """The keys of the section at a place; tags of unions and numbers of lists are passed over."""
    current = model
    for name in place:
        field = current.model_fields.get(str(name))
        if field is not None:
            current = _section(field.annotation) or current
        else:
            current = next((s for s in _members(current) if str(name) in _tags(s)), current)
    return list(current.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The settings section that an annotation names, in a list or a union too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section(each) for each in typing.get_args(annotation))
    return next((each for each in found if each is not None), None)


def _members(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [each for each in Section.__subclasses__() if each is not model]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind is not None else ()
