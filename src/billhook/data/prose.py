"""English prose that ships with Python: CPython's own language reference (``pydoc_data``).

Lower-cased, numbers as N, rare words as ``<unk>``: the form of the Penn Treebank files.
"""

import re
from collections import Counter

from billhook.errors import DataError

__all__ = ["splits"]

WORDS = 2_000  # the most frequent ones stay; N and <unk> come on top
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)*")
NOT_PROSE = re.compile(r"^(?: {6,}|\s*$| *[-=~^*+>|.`#])")  # code, tables, headings' underlines
SHORTEST = 4
BLOCK = 20


def splits() -> dict[str, list[str]]:
    """Sentences of the three splits: of ten blocks of 20, one for each of the two smaller ones.

    Raises:
        DataError: this Python was installed without its documentation topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python lacks pydoc_data.topics, the prose that ships with CPython: give a "
            "folder with *.train.txt, *.valid.txt and *.test.txt"
        ) from None
    parts: dict[str, list[list[str]]] = {"train": [], "valid": [], "test": []}
    sentences = [sentence for name in sorted(topics) for sentence in _sentences(topics[name])]
    for start in range(0, len(sentences), BLOCK):
        split = {8: "valid", 9: "test"}.get(start // BLOCK % 10, "train")
        parts[split] += sentences[start : start + BLOCK]
    counts = Counter(word for sentence in parts["train"] for word in sentence)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    kept = set(ranked[:WORDS])
    return {
        split: [" ".join(w if w in kept else "<unk>" for w in sentence) for sentence in part]
        for split, part in parts.items()
    }


def _sentences(topic: str) -> list[list[str]]:
    prose = " ".join(line for line in topic.splitlines() if not NOT_PROSE.match(line))
    sentences = []
    for sentence in SENTENCE_END.split(prose):
        words = ["N" if w[0].isdigit() else w for w in TOKEN.findall(sentence.lower())]
        if len(words) >= SHORTEST:
            sentences.append(words)
    return sentences
