"""N-gram baselines against brute-force counting."""

import math
from collections import Counter

import numpy as np
import pytest

from pd_finetune.pretraining.baselines import trigram_nats, unigram_nats

VOCAB = 6


def streams(seed: int = 0) -> tuple[list[int], list[int]]:
    """Sparse enough that histories and continuations go unseen; token 5 is never in training."""
    rng = np.random.default_rng(seed)
    train = rng.choice(5, 40, p=[0.5, 0.2, 0.15, 0.1, 0.05]).tolist()
    return train, rng.choice(6, 60).tolist()


def probability(train: list[int], history: tuple[int, ...], token: int) -> float:
    """Witten-Bell by its definition, one query at a time."""
    if not history:
        return (train.count(token) + 1) / (len(train) + VOCAB)
    order = len(history)
    followers = Counter(
        train[i + order]
        for i in range(len(train) - order)
        if tuple(train[i : i + order]) == history
    )
    n, t = sum(followers.values()), len(followers)
    lower = probability(train, history[1:], token)
    return lower if n == 0 else (followers[token] + t * lower) / (n + t)


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(seed: int) -> None:
    train, held_out = streams(seed)
    x, y = np.array(train, np.uint16), np.array(held_out, np.uint16)
    unigram = [-math.log(probability(train, (), c)) for c in held_out]
    assert unigram_nats(x, y, VOCAB) == pytest.approx(sum(unigram) / len(unigram))
    trigram = [
        -math.log(probability(train, tuple(held_out[i - 2 : i]), held_out[i]))
        for i in range(2, len(held_out))
    ]
    assert trigram_nats(x, y, VOCAB) == pytest.approx(sum(trigram) / len(trigram))


def test_probabilities_sum_to_one() -> None:
    """One query at a time through the library: histories seen, half seen and never seen."""
    train, _ = streams()
    x = np.array(train)
    pairs = set(zip(train, train[1:], strict=False))
    histories = [(a, b) for a in range(VOCAB) for b in range(VOCAB)]
    assert 0 < sum(h in pairs for h in histories) < len(histories)
    for a, b in histories:
        total = sum(math.exp(-trigram_nats(x, np.array([a, b, c]), VOCAB)) for c in range(VOCAB))
        assert total == pytest.approx(1.0)
    total = sum(math.exp(-unigram_nats(x, np.array([c]), VOCAB)) for c in range(VOCAB))
    assert total == pytest.approx(1.0)


def test_a_large_vocabulary_does_not_collide() -> None:
    """Codes of three tokens pass 2^32 here; 256,000^3 still fits 64 bits."""
    vocab = 256_000
    x = np.array([255_999, 255_998, 255_997] * 3, np.int32)
    assert trigram_nats(x, x[:6], vocab) < 1.0
    assert trigram_nats(x, np.array([255_999, 255_998, 3], np.int32), vocab) > 10.0
