"""The registry: every coding this release writes and reads, and the choice between them."""

from collections.abc import Callable, Sequence

from billhook.errors import ConfigurationError, FormatError
from billhook.format.bitmask import Bitmask
from billhook.format.coding import Coding, Layout
from billhook.format.dense import Dense

__all__ = ["CODINGS", "Encoding", "choose", "find", "resolve"]

CODINGS: dict[str, Coding] = {coding.name: coding for coding in (Dense(), Bitmask())}

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
    names = (encoding,) if isinstance(encoding, str) else tuple(encoding)
    unknown = [name for name in names if name not in CODINGS]
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
    codings: Sequence[Coding], width: int, layout_of: Callable[[Coding], Layout]
) -> tuple[Coding, Layout]:
    """The coding with the fewest bytes for one tensor; of equals the one named first."""
    pairs = [(coding, layout_of(coding)) for coding in codings]
    return min(pairs, key=lambda pair: pair[1].stored * width + pair[1].index_bytes)
