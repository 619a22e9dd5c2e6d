"""Verdicts follow their rules: on runs made so that the truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pd_finetune.records.record import RunRecord, Values
from pd_finetune.report.tables import WORDS
from pd_finetune.results import verdicts as rules
from pd_finetune.results.claims import CLAIMS, answers, verdicts
from pd_finetune.results.comparison import Comparison
from pd_finetune.results.frame import runs_frame
from pd_finetune.results.summary import Estimate, estimate, paired
from pd_finetune.results.verdicts import Part, directional, overall
from tests.plots import synthetic


def run(arm: str, budget: int, seed: int, gap: float, **damage: float) -> RunRecord:
    """A run with just this gap and these damages, a little different by seed."""
    made = synthetic.record(arm, budget, seed)
    shift = 0.001 * seed
    losses = {**dict.fromkeys(("en", "fr", "es", "it", "code"), 0.0), **damage}
    found = {name: value + shift for name, value in losses.items()}
    edited = {**made.edited.ce_nats, "de": synthetic.CHANCE - gap - shift}
    masks = {key: -1.0 + shift for key in made.masks}
    return replace(
        made,
        to_chance_nats=gap + shift,
        damage_nats={"de": 5.0, **found},
        edited=Values(edited),
        masks=masks,
    )


def as_the_write_up_has_it(seeds: int = 5) -> list[RunRecord]:
    """Runs that do just what the write-up reports."""
    runs = []
    for seed in range(seeds):
        for budget in (4, 32):
            gap = 0.0 if budget == 32 else 4.0
            foreign = {"fr": 0.6, "es": 0.5, "it": 0.6}
            runs += [
                run("one_scalar", budget, seed, 0.0, en=0.05, fr=0.01, es=0.01, it=0.4),
                run("top16", budget, seed, 1.0, en=0.01, **foreign),
                run("lora_r1", budget, seed, gap, en=0.09, **foreign),
                run("lora_r4", budget, seed, 0.9 * gap, en=0.09, **foreign),
                run("localized_lora", budget, seed, gap, en=0.09, **foreign),
            ]
    return runs


def fires(languages: list[str], exclusive: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"arm": "top16", "languages": languages, "exclusive": exclusive})


def rollouts(german_after: float) -> pd.DataFrame:
    rows = []
    for arm, share in (("unedited", 1.0), ("one_scalar", german_after)):
        for seed in range(3):
            for place in range(10):
                german = "de" if place < 10 * share else "it"
                for language, found in (("de", german), ("en", "en")):
                    rows.append((arm, 4, seed, "greedy", language, found, 0.0))
    names = ["arm", "budget", "seed", "mode", "language", "identified", "repetition"]
    return pd.DataFrame(rows, columns=names)


WRITE_UP_LABELS = fires(["de,fr,es"] * 14 + ["de"] * 2, [False] * 14 + [True] * 2)


def test_the_write_up_reproduces_itself() -> None:
    frame = runs_frame(as_the_write_up_has_it())
    parts = answers(Comparison(frame, WRITE_UP_LABELS, rollouts(0.0)))
    assert verdicts(parts) == dict.fromkeys(CLAIMS, "reproduced")
    assert list(CLAIMS) == list(WORDS["claims"])
    rise = [part for part in parts if "rise of" in part.what]
    assert [part.verdict for part in rise] == ["not testable here"]
    assert rise[0].value == pytest.approx(synthetic.CHANCE - synthetic.BASE_DE, abs=0.01)
    needed = {part.what: part.text for part in parts if part.what.startswith("tokens to target")}
    assert needed["tokens to target, one scalar"] == "4 [4, 4]"
    assert needed["tokens to target, LoRA r1"] == "32 [32, 32]"


def test_the_opposite_is_reversed() -> None:
    runs = []
    for seed in range(5):
        for budget in (4, 32):
            low = {"fr": 0.2, "es": 0.2, "it": 0.1}
            runs += [
                run("one_scalar", budget, seed, 2.0, en=0.3, fr=0.9, es=0.9, it=0.8),
                run("top16", budget, seed, 4.0, en=0.5, **low),
                run("lora_r1", budget, seed, 0.0, en=0.04, fr=0.01, es=0.01, it=0.01),
                run("lora_r4", budget, seed, 0.5, en=0.04, fr=0.01, es=0.01, it=0.01),
                run("localized_lora", budget, seed, 0.0, en=0.04, fr=0.01, es=0.01, it=0.01),
            ]
    frame = runs_frame(runs)
    german = fires(["de"] * 12 + ["de,fr"] * 4, [True] * 12 + [False] * 4)
    found = verdicts(answers(Comparison(frame, german, rollouts(1.0))))
    assert {name: found[name] for name in ("C2", "C5", "C7")} == {
        **dict.fromkeys(("C2", "C5", "C7"), "reversed")
    }
    parts = answers(Comparison(frame, german, rollouts(1.0)))
    by_claim = {name: [p.verdict for p in parts if p.claim == name] for name in CLAIMS}
    assert by_claim["C1"][:2] == ["reversed"] * 2
    assert by_claim["C3"] == ["reversed", "reproduced"]
    # the scalar never gets there, two LoRAs do at once
    assert by_claim["C4"][:4] == ["not reproduced", "reversed", "not reproduced", "reversed"]
    assert by_claim["C6"] == ["reversed", "not reproduced"]
    assert by_claim["C8"] == ["reversed", "reproduced"]


def test_beyond_chance_is_not_short_of_it() -> None:
    runs = [
        run(arm, 64, seed, gap)
        for seed in range(3)
        for arm, gap in (("top16", 0.0), ("lora_r1", -5.0), ("lora_r4", 2.0))
    ]
    parts = answers(Comparison(runs_frame(runs)))
    (caught_up,) = (part for part in parts if part.claim == "C1" and "at 64" in part.what)
    assert caught_up.verdict == "reproduced" and caught_up.value == pytest.approx(0.0, abs=0.01)
    better = next(part for part in parts if part.claim == "C6")
    assert better.verdict == "reversed" and better.value == pytest.approx(2.0, abs=0.01)


def test_without_runs_labels_or_seeds_nothing_is_claimed() -> None:
    alone = runs_frame([run("one_scalar", 4, 0, 0.0, en=0.05)])
    found = verdicts(answers(Comparison(alone)))
    assert {found[name] for name in ("C1", "C2", "C3", "C5", "C6", "C7", "C8")} == {
        "not testable here"
    }
    loras = runs_frame([run("lora_r1", 4, seed, 1.0) for seed in range(3)])
    assert verdicts(answers(Comparison(loras)))["C4"] == "not testable here"


@pytest.mark.parametrize(
    ("low", "high", "sign", "verdict"),
    [
        (0.1, 0.3, 1, "reproduced"),
        (-0.3, -0.1, 1, "reversed"),
        (-0.1, 0.3, 1, "not reproduced"),
        (-0.3, -0.1, -1, "reproduced"),
        (0.0, 0.3, -1, "not reproduced"),
        (float("nan"), float("nan"), 1, "not testable here"),
    ],
)
def test_direction(low: float, high: float, sign: int, verdict: str) -> None:
    found = directional("C1", "x", Estimate(0.0, low, high, 5), sign)
    assert found.verdict == verdict
    moved = directional("C1", "x", Estimate(2.0, low + 2, high + 2, 5), sign, limit=2.0)
    assert moved.verdict == verdict


def test_parts_make_a_whole() -> None:
    def parts(*found: str) -> list[Part]:
        return [Part("C1", "", "", verdict) for verdict in found]

    yes, no, back, open_ = (
        *(rules.REPRODUCED, rules.NOT_REPRODUCED),
        *(rules.REVERSED, rules.NOT_TESTABLE),
    )
    assert overall(parts(yes, yes, open_)) == yes
    assert overall(parts(yes, no)) == overall(parts(yes, back)) == no
    assert overall(parts(back, back)) == back
    assert overall(parts(open_)) == overall([]) == open_


# ------------------------------------------------------------------ intervals


def test_differences_are_of_the_same_seed() -> None:
    first = pd.Series({0: 1.0, 1: 5.0, 2: 9.0, 7: 100.0})
    second = pd.Series({2: 8.0, 0: 0.0, 1: 4.0, 9: -100.0})
    found = paired(first, second)
    assert found is not None
    assert (found.value, found.low, found.high, found.seeds) == (1.0, 1.0, 1.0, 3)
    assert paired(first, pd.Series({20: 1.0})) is None


def test_an_estimate_is_a_plain_bootstrap_of_the_median() -> None:
    values = np.array([0.3, -0.2, 0.9, 0.5, 0.1, 0.7])
    found = estimate(values)
    draws = np.random.default_rng(0).integers(6, size=(10_000, 6))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    assert (found.value, found.low, found.high) == pytest.approx((0.4, low, high))
    assert np.isnan(estimate(values[:1]).low)
    with pytest.raises(ValueError, match="no values"):
        estimate(values[:0])
