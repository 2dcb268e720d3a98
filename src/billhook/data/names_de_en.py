"""German and English names of languages, places, scripts and currencies, from Babel's CLDR.

Real translations that need no download: names, not sentences, good for trying out the machinery.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from billhook.data.parallel import Pairs, ParallelData
from billhook.errors import DataError

if TYPE_CHECKING:
    from babel import Locale

__all__ = ["load"]

KINDS = ("languages", "territories", "scripts", "currencies", "variants")
LANGUAGES = ("de", "en")


def load(source: str, target: str) -> ParallelData:
    """Of every ten pairs that are translated at all, one is for validation and one for testing.

    Raises:
        DataError: languages other than "de" and "en".
    """
    if {source, target} != set(LANGUAGES):
        raise DataError(
            f"the embedded names are German and English (de, en), not {source} and {target}: give "
            "a folder with parallel text"
        )
    from babel import Locale

    names = {language: _names(Locale(language)) for language in LANGUAGES}
    both = [key for key in names[source] if key in names[target]]
    # Each pair once, in the order of first appearance.
    ordered = dict.fromkeys((names[source][key], names[target][key]) for key in both)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for number, pair in enumerate(ordered):
        parts[{8: "valid", 9: "test"}.get(number % 10, "train")].append(pair)
    splits = {
        name: Pairs([a for a, _ in part], [b for _, b in part]) for name, part in parts.items()
    }
    sizes = " / ".join(str(len(part)) for part in parts.values())
    description = f"names in Babel's locale data, {source} to {target}: {sizes} pairs"
    return ParallelData(splits["train"], splits["valid"], splits["test"], description)


def _names(locale: "Locale") -> dict[tuple[str, str], str]:
    names: dict[tuple[str, str], str] = {}
    for kind in KINDS:
        table: Mapping[str, str] = getattr(locale, kind)
        names |= {(kind, key): table[key] for key in sorted(table)}
    return names
