"""The files of a results folder as they are read back: what they should hold, or an error."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from billhook.errors import FormatError

__all__ = ["LATENCY", "VALUES", "printable", "read_json", "read_table"]

#: The latencies of the chosen networks (:mod:`billhook.study.run.latency`).
LATENCY = "latency.csv"
#: The chosen networks with rounded weights (:mod:`billhook.study.run.rounded`).
VALUES = "values.csv"

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T | None:
    """The value in a JSON file of a run; None if there is no such file.

    Args:
        path: the file, in the run's folder.
        kind: what it holds, such as a dataclass or ``dict[str, float]``.

    Raises:
        FormatError: it holds something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ".".join(map(str, first["loc"])) + f" {first['msg']}"
        raise FormatError(
            f"{path} is damaged ({reason.strip()}): restore it, or delete the folder "
            f"{path.parent.name}, and this run is trained again"
        ) from None


def read_table(path: Path, columns: Mapping[str, type] | None = None) -> list[dict[str, str]]:
    """The lines of a CSV file by column.

    Args:
        path: the file.
        columns: those that it needs, and what they hold: ``str``, or ``int`` and ``float`` for
            finite numbers.

    Raises:
        FormatError: it is not such a table; the line is named.
    """
    try:
        text = path.read_bytes().decode()
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        lines = list(reader)
        missing = [name for name in columns or () if name not in (reader.fieldnames or ())]
        if missing and lines:
            raise ValueError(f"it has no column {missing[0]}")
        for number, line in enumerate(lines, start=2):
            _check(line, columns or {}, number)
    except (ValueError, csv.Error) as error:
        raise FormatError(
            f"{path} is damaged ({error}): restore it, or delete it and run the study again"
        ) from None
    return [printable(line) for line in lines]


def _check(line: Mapping[str, Any], columns: Mapping[str, type], number: int) -> None:
    if None in line or None in line.values():
        raise ValueError(f"line {number} has another number of columns than the first one")
    for name, kind in columns.items():
        if kind is not str and not math.isfinite(kind(line[name])):
            raise ValueError(f"line {number}: {name} is {line[name]}")


def printable(value: T) -> T:
    """``value`` with the control characters in its texts escaped, line ends excepted.

    Files of a results folder come from strangers, and what they say is shown in terminals.

    >>> print(printable({"failure": "a\\x1b[2Jb"})["failure"])
    a\\x1b[2Jb
    """
    if isinstance(value, str):
        whole = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)
        return "".join(whole)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {printable(k): printable(v) for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [printable(each) for each in value]  # type: ignore[return-value]
    return value
