"""Budgets are counted exactly and nested; sequences start where paragraphs do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_finetune.errors import UserError
from pd_finetune.text.budget import TargetSample, protect_pool, target_sample
from pd_finetune.text.config import TokenBudgetConfig
from tests import tiny

SETTINGS = TokenBudgetConfig(sequence_tokens=12, min_paragraph_tokens=10)


def draw(budget: int, seed: int = 0, how: TokenBudgetConfig = SETTINGS) -> TargetSample:
    return target_sample(tiny.tokenizer(), tiny.source(), "de", budget, seed, how)


def paragraphs() -> list[str]:
    return [p for text in tiny.source().documents("de", "train") for p in text.split("\n")]


@settings(max_examples=60, deadline=None)
@given(small=st.integers(1, 80), more=st.integers(0, 80), seed=st.integers(0, 5))
def test_counted_exactly_and_nested(small: int, more: int, seed: int) -> None:
    less, large = draw(small, seed), draw(small + more, seed)
    assert less.tokens == small == len(less.stream)
    assert large.stream[:small] == less.stream
    lengths = less.counted.sum(1).tolist()
    assert lengths[:-1] == large.counted.sum(1).tolist()[: len(lengths) - 1]
    assert max(lengths) <= SETTINGS.sequence_tokens
    for sample in (less, large):
        assert (sample.rows[:, 0] == 0).all() and not sample.counted[:, 0].any()
        assert (sample.rows[~sample.counted] == 0).all()


def test_every_sequence_starts_a_paragraph() -> None:
    for text in draw(60).text:
        assert any(p.startswith(text.rstrip("�")) for p in paragraphs())
        assert not text.startswith("Überschrift")  # too short: passed over


def test_seeds_and_repeats() -> None:
    assert draw(40, 1).stream == draw(40, 1).stream
    assert draw(40, 1).stream != draw(40, 2).stream


def test_budget_beyond_the_text_says_how_many_there_are() -> None:
    lengths = [len(tiny.tokenizer().encode(p).ids) for p in paragraphs()]
    there = sum(min(n, 12) for n in lengths if n >= 10)
    assert draw(there).tokens == there
    with pytest.raises(UserError, match=f"{there}"):
        draw(there + 1)


def test_protect_pool_windows() -> None:
    pool = protect_pool(tiny.tokenizer(), tiny.source(), ["en", "de"], 3, pool=7, tokens=20)
    assert pool.shape == (7, 20) and (pool[:, 0] == 0).all()
    text = [tiny.tokenizer().decode(row.tolist()) for row in pool]
    starts = {
        name: [p[:6] for t in tiny.source().documents(name, "train") for p in t.split("\n") if p]
        for name in ("en", "de")
    }
    for row, name in enumerate(["en", "de"] * 3 + ["en"]):
        assert any(text[row].startswith(start) for start in starts[name])
    again = protect_pool(tiny.tokenizer(), tiny.source(), ["en", "de"], 3, pool=7, tokens=20)
    other = protect_pool(tiny.tokenizer(), tiny.source(), ["en", "de"], 4, pool=7, tokens=20)
    assert torch.equal(pool, again) and not torch.equal(pool, other)


def test_protect_pool_joins_short_documents_with_end_of_text() -> None:
    source = tiny.MemorySource({"en": [f"Line {n} here." for n in range(60)]})
    pool = protect_pool(tiny.tokenizer(), source, ["en"], 0, pool=3, tokens=24)
    assert ((pool == 0).sum(1) > 1).all()
    with pytest.raises(UserError, match="protect_pool"):
        protect_pool(tiny.tokenizer(), source, ["en"], 0, pool=100, tokens=24)


def test_language_without_text() -> None:
    source = tiny.MemorySource({"de": []})
    with pytest.raises(UserError, match="0 tokens"):
        target_sample(tiny.tokenizer(), source, "de", 1, 0, SETTINGS)
