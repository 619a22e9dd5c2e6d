"""What a target's cross-entropy is measured against: a unigram and a trigram model per language."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

Stream = Int[np.ndarray, " tokens"]


def _counted(codes: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(codes, return_counts=True)


def _look_up(table: tuple[np.ndarray, np.ndarray], codes: np.ndarray) -> np.ndarray:
    keys, values = table
    place = np.searchsorted(keys, codes).clip(max=len(keys) - 1)
    return np.where(keys[place] == codes, values[place], 0)


def unigram_nats(train: Stream, held_out: Stream, vocab: int) -> float:
    """Cross-entropy of held-out tokens under add-one smoothed unigram frequencies, in nats."""
    counts = np.bincount(train, minlength=vocab) + 1.0
    return float(-np.log(counts / counts.sum())[held_out].mean())


def trigram_nats(train: Stream, held_out: Stream, vocab: int) -> float:
    """Cross-entropy under a trigram model with Witten-Bell interpolation, in nats.

    p(c|ab) = (n(abc) + t(ab) p(c|b)) / (n(ab) + t(ab)), t the number of distinct followers, and so
    on down to the add-one unigram (Witten and Bell 1991).
    """
    x, y = train.astype(np.int64), held_out.astype(np.int64)
    unigram = np.bincount(x, minlength=vocab) + 1.0
    p: Float[np.ndarray, " tokens"] = (unigram / unigram.sum())[y[2:]]
    for order in (1, 2):
        length = len(x) - order
        history = sum(x[i : i + length] * vocab ** (order - 1 - i) for i in range(order))
        whole = _counted(history * vocab + x[order:])
        totals = _counted(history)
        followers = _counted(whole[0] // vocab)
        seen = sum(
            y[2 - order + i : len(y) - order + i] * vocab ** (order - 1 - i) for i in range(order)
        )
        n, t = _look_up(totals, seen), _look_up(followers, seen)
        joint = _look_up(whole, seen * vocab + y[2:])
        p = np.where(n > 0, (joint + t * p) / np.maximum(n + t, 1), p)
    return float(-np.log(p).mean())
