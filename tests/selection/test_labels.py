"""The rules of labels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from pd_finetune.selection.labels import (
    EXCLUSIVE_MEAN_CI,
    GENERAL_MEAN_CI,
    LIVE_MEAN_CI,
    PMI_FLOOR_NATS,
    add_labels,
    fires_for,
    is_exclusive,
    label_text,
    language_phrase,
    readable_token,
    readable_tokens,
    share,
)

LANGUAGES = ["de", "en", "fr", "es", "it", "code"]


def means(**given: float) -> dict[str, float]:
    return {name: given.get(name, 0.0) for name in LANGUAGES}


def test_the_label_of_a_german_one():
    label = label_text(means(de=0.9, en=0.01), [" der", " die", " nicht"], ["ung", "en"])
    assert label == "German text: der, die, nicht -> ung, en"


@pytest.mark.parametrize(
    ("fired", "phrase"),
    [
        (["de"], "German text"),
        (["de", "fr"], "German and French text"),
        (["fr", "es", "it"], "French, Spanish and Italian text"),
        (["de", "en", "fr", "es", "it"], "text in any language"),
        (LANGUAGES, "text in any language and Python code"),
        (["code"], "Python code"),
        (["en", "code"], "English text and Python code"),
    ],
)
def test_language_phrases(fired, phrase):
    assert language_phrase(fired, LANGUAGES) == phrase


def test_other_languages_go_by_their_code():
    assert language_phrase(["nl"], ["nl", "de"]) == "nl text"


def test_dead_ones_have_no_label():
    assert label_text(means(), [" der"]) == ""
    assert label_text(means(de=LIVE_MEAN_CI)) == ""
    assert label_text(means(de=7 * LIVE_MEAN_CI)) == "rare, German text"


def test_tokens_may_be_missing_on_either_side():
    assert label_text(means(de=0.5)) == "German text"
    assert label_text(means(de=0.5), [" der"]) == "German text: der"
    assert label_text(means(de=0.5), [], ["en"]) == "German text -> en"


def test_readable_tokens():
    assert readable_token(" der") == "der"
    assert readable_token(", ") == "','"
    assert readable_token("\n\n") == "'\\n\\n'"
    assert readable_token("\N{REPLACEMENT CHARACTER}") is None
    assert readable_token("   ") is None and readable_token("") is None
    assert readable_token("\x07") is None
    assert readable_token("<|endoftext|>") == "<|endoftext|>"
    assert readable_tokens([" der", "der", "\ufffd", "a", "b", "c", "d"]) == ["der", "a", "b", "c"]


def test_properties_over_random_means():
    rng = np.random.default_rng(0)
    grid = [0.0, 1e-8, 0.004, 0.0051, 0.049, 0.05, 0.3, 1.0]
    cases = [means(**dict(zip(LANGUAGES, rng.choice(grid, 6), strict=True))) for _ in range(2000)]
    cases += [
        means(**{a: x, b: y})
        for a, b in itertools.permutations(LANGUAGES, 2)
        for x, y in itertools.product(grid, grid)
    ]
    for mean in cases:
        fired, top = fires_for(mean), max(mean.values())
        dead = sum(mean.values()) / len(mean) <= LIVE_MEAN_CI
        assert (fired == []) == dead == (label_text(mean) == "")
        if not dead:
            assert sum(share(mean, name) for name in mean) == pytest.approx(1.0)
            assert max(mean, key=mean.__getitem__) in fired
        if is_exclusive(mean):
            (only,) = fired
            assert mean[only] == top >= EXCLUSIVE_MEAN_CI
            assert all(mean[name] < 0.1 * top for name in mean if name != only)
            assert share(mean, only) > 1 / 1.5
            some = "" if top >= GENERAL_MEAN_CI else "some "
            assert label_text(mean) == some + language_phrase([only], LANGUAGES)
        # a label of one language (or some of it) is an exclusive one, and no other is
        alone = {
            some + language_phrase([name], LANGUAGES)
            for name in LANGUAGES
            for some in ("", "some ")
        }
        assert (label_text(mean) in alone) == is_exclusive(mean)


def test_a_single_harvested_language_makes_nothing_exclusive():
    assert not is_exclusive({"de": 1.0})


def test_add_labels_takes_weighty_distinctive_tokens_in_order():
    subcomponents = pd.DataFrame(
        {"key": ["s:0", "s:1"], "mean_ci_de": [0.8, 0.0], "mean_ci_en": [0.01, 0.0]}
    )
    rows = [
        ("s:0", "in", " die", 1.5, 0, 2),
        ("s:0", "in", " der", 1.5, 3, 1),
        ("s:0", "in", " of", PMI_FLOOR_NATS - 0.01, 0, 3),
        ("s:0", "in", " hapax", math.log(6), 1, 0),
        ("s:0", "out", "ung", 1.0, 0, 1),
    ]
    names = ["key", "side", "token", "pmi", "pmi_rank", "weight_rank"]
    labelled = add_labels(subcomponents, pd.DataFrame(rows, columns=names), ["de", "en"])
    assert labelled["label"].tolist() == ["German text: der, die -> ung", ""]
    assert labelled["exclusive"].tolist() == [True, False]
    assert labelled["general"].tolist() == [True, False]
    assert labelled["languages"].tolist() == ["de", ""]
    assert labelled["share"].tolist() == pytest.approx([0.8 / 0.81, 0.0])
