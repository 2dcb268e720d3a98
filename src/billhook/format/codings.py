"""The registry: every coding this release writes and reads, and the choice between them."""

from collections.abc import Callable, Sequence
from typing import Any

from billhook.errors import ConfigurationError, FormatError
from billhook.format.bitmask import Bitmask
from billhook.format.blocks import Blocks
from billhook.format.coding import Coding, Layout
from billhook.format.dense import Dense
from billhook.format.entropy import Entropy
from billhook.format.file_layout import PlannedEntry, header_bytes
from billhook.format.relative_index import RelativeIndex

__all__ = ["CODINGS", "Encoding", "choose", "find", "resolve"]

CODINGS: dict[str, Coding] = {
    coding.name: coding for coding in (Dense(), Bitmask(), Blocks(), RelativeIndex(), Entropy())
}

Encoding = str | Sequence[str]
"""``"auto"`` (the smallest of all, tensor by tensor), the name of one coding (forced on every
tensor), or several names (the smallest of these, tensor by tensor)."""


def resolve(encoding: Encoding) -> tuple[Coding, ...]:
    """The codings an ``encoding`` argument allows.

    >>> [coding.name for coding in resolve(("dense", "bitmask"))]
    ['dense', 'bitmask']
    """
    if encoding == "auto":
        return tuple(CODINGS.values())
    listed = isinstance(encoding, (tuple, list))
    names: tuple[Any, ...] = tuple(encoding) if listed else (encoding,)
    unknown = [name for name in names if not isinstance(name, str) or name not in CODINGS]
    if unknown or not names:
        raise ConfigurationError(
            f"encoding={encoding!r} names no coding; use 'auto', one of {', '.join(CODINGS)}, or a "
            "tuple of these to take the smallest of them"
        )
    return tuple(CODINGS[name] for name in names)


def find(name: str) -> Coding:
    """The coding a file names."""
    if name not in CODINGS:
        raise FormatError(
            f"unknown coding {name!r}; this release reads {', '.join(CODINGS)}: a newer billhook "
            "may read it"
        )
    return CODINGS[name]


def choose(
    codings: Sequence[Coding],
    layout_of: Callable[[Coding], Layout],
    entry_of: Callable[[Coding, Layout], PlannedEntry],
) -> tuple[Coding, Layout, PlannedEntry]:
    """The coding with the fewest bytes for one tensor, in data and header together; of equals the
    one named first."""
    choices = []
    for coding in codings:
        layout = layout_of(coding)
        choices.append((coding, layout, entry_of(coding, layout)))
    return min(choices, key=lambda choice: choice[2].nbytes + header_bytes(choice[2]))
