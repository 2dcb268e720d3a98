"""The n-gram language model an LSTM has to be compared with: interpolated, modified Kneser-Ney.

Chen & Goodman 1998 (TR-10-98), eqs. 26-28. The text is one stream, so contexts reach over ends of
sentence, as an LSTM's state does. As a command it prints the perplexities of a data folder::

    python benchmarks/ngram.py DIR [ORDER]
"""

import sys

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.data.text import load_text

__all__ = ["KneserNey"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class KneserNey:
    """``p_m(w | h) = (c(hw) - D(c)) / c(h.) + g(h) p_{m-1}(w | h')``, down to 1 / V.

    c is the count at the highest order and, below, the number of different words seen in front. D
    is one of three discounts (for counts of 1, 2, and 3 or more); g(h) is what they took from h; h'
    is h without its first word. A context never seen leaves it all to h'.

    Args:
        stream: the training words, int64 ``(N,)``, all below ``vocab``.
        vocab: V, the number of words.
        order: the longest n-gram.

    >>> stream = torch.tensor([0, 1, 2, 0, 1, 3, 0, 2, 1, 0, 3, 3, 1, 2] * 3)
    >>> model = KneserNey(stream, vocab=5, order=3)
    >>> contexts = [[a, b] for a in range(5) for b in range(5)]
    >>> def total(h):
    ...     return sum(model.probabilities(np.array([*h, w]))[2] for w in range(5))
    >>> bool(np.allclose([total(h) for h in contexts], 1))
    True
    """

    def __init__(self, stream: torch.Tensor, vocab: int, order: int) -> None:
        self.vocab, self.order = vocab, order
        words = stream.numpy().astype(np.int64)
        ids = [np.zeros(len(words), dtype=np.int64)]  # of the empty n-gram that ends at each word
        self.keys: list[Integers] = [np.zeros(1, dtype=np.int64)]
        prefixes, suffixes, counts = [], [], []
        for m in range(1, order + 1):
            before = np.concatenate([[-1], ids[-1][:-1]]) if m > 1 else ids[-1]
            valid = np.flatnonzero(np.arange(len(words)) >= m - 1)
            key = before[valid] * vocab + words[valid]
            unique, first, number, count = np.unique(
                key, return_index=True, return_inverse=True, return_counts=True
            )
            here = np.full(len(words), -1, dtype=np.int64)
            here[valid] = number
            self.keys.append(unique)
            prefixes.append(unique // vocab)
            suffixes.append(ids[-1][valid[first]])
            counts.append(count)
            ids.append(here)
        self.parts = []
        for m in range(1, order + 1):
            if m < order:  # continuation counts: how many different words came before
                kinds = np.bincount(suffixes[m], minlength=len(self.keys[m]))
            else:
                kinds = counts[-1]
            self.parts.append(
                _Order(kinds.astype(np.int64), prefixes[m - 1], len(self.keys[m - 1]))
            )

    def probabilities(self, words: Integers) -> Floats:
        """Of every word of a stream, float64 ``(N,)``, given those before it in the stream."""
        result = np.full(len(words), 1 / self.vocab)
        context = np.zeros(len(words), dtype=np.int64)  # id of the (m-1)-gram before each word
        for m, part in enumerate(self.parts, start=1):
            key = np.where(context >= 0, context * self.vocab + words, -1)
            number = np.searchsorted(self.keys[m], key)
            number[number == len(self.keys[m])] = 0
            found = np.where(self.keys[m][number] == key, number, -1)
            seen = context >= 0
            seen[seen] &= part.total[context[seen]] > 0
            rest = result[seen] * part.backoff[context[seen]]
            direct = np.where(found[seen] >= 0, part.direct[found[seen]], 0.0)
            result[seen] = direct + rest
            context = np.concatenate([[-1], found[:-1]])
        return result

    def perplexity(self, stream: torch.Tensor) -> float:
        """exp of the mean of -log p of words 1 to N - 1, as the LSTM's."""
        probabilities = self.probabilities(stream.numpy().astype(np.int64))
        return float(np.exp(-np.log(probabilities[1:]).mean()))


class _Order:
    """One order's tables: by n-gram its discounted share, by context its total and back-off."""

    def __init__(self, counts: Integers, prefixes: Integers, contexts: int) -> None:
        n1, n2, n3, n4 = (max(1, int((counts == k).sum())) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        discounts = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        discounts = np.clip(discounts, 0, np.arange(4))  # tiny corpora break the estimate
        taken = discounts[np.minimum(counts, 3)]
        self.total = np.bincount(prefixes, weights=counts, minlength=contexts)
        lost = np.bincount(prefixes, weights=taken, minlength=contexts)
        safe = np.maximum(self.total, 1)
        self.direct = (counts - taken) / safe[prefixes]
        self.backoff = lost / safe


def _main() -> None:
    data = load_text(sys.argv[1])
    print(data.description)
    for order in range(1, int(sys.argv[2]) + 1 if len(sys.argv) > 2 else 6):
        model = KneserNey(data.train, len(data.vocab), order)
        print(
            f"Kneser-Ney, order {order}: valid {model.perplexity(data.valid):.1f}, "
            f"test {model.perplexity(data.test):.1f}"
        )


if __name__ == "__main__":
    _main()
