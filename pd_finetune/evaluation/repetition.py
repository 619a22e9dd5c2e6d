"""How much a text repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 4


def repeated_ngrams(ids: Sequence[int], n: int = NGRAM) -> float | None:
    """Share of the n-grams of tokens that stood in the text before: 1 - distinct / all.

    0 says that none recurs. None for texts of fewer than n tokens. (Called rep-n or seq-rep-n in
    work on degenerate generation.)
    """
    ngrams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else None
