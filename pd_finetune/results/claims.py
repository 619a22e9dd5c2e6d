"""The write-up's claims C1-C8 against the runs: a number, an interval and a verdict for each part.

The rules are in `verdicts.py`. Arms are compared at `comparison_budgets`: where they are first at
chance, or else at their best. How close an arm comes to chance is what it is short of it: 0 at
chance and beyond, as for tokens to target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pd_finetune.results.arms import LOCALISED, LORA_R1, LORA_R4, LORAS, ONE_SCALAR, TOP_16
from pd_finetune.results.evidence import Evidence
from pd_finetune.results.intervals import Estimate, estimate, paired
from pd_finetune.results.reached import tokens_text
from pd_finetune.results.rollouts import UNEDITED, shares
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
from pd_finetune.results.verdicts import (
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    REVERSED,
    Part,
    directional,
    overall,
)

SMALL_BELOW = 32  # German tokens from which on the write-up's LoRAs reach the target


def _median(values: pd.Series) -> Estimate | None:
    return estimate(values.to_numpy()) if len(values) else None


# ------------------------------------------------------------------ the claims


def c1(evidence: Evidence) -> list[Part]:
    """Top 16 beats rank-1 LoRA at small budgets; at larger ones LoRA catches up."""
    tried = sorted(int(value) for value in evidence.frame["budget"].unique())
    small = [budget for budget in tried if budget < SMALL_BELOW]
    parts = []
    for name, column in (
        ("short of chance", "to_chance_nats"),
        ("damage to the protected", "protected_damage_nats"),
    ):
        arms = [evidence.over(arm, column, small) for arm in (TOP_16, LORA_R1)]
        what = f"{name}, {TOP_16} minus {LORA_R1}, mean over budgets below {SMALL_BELOW} tokens"
        parts.append(directional("C1", what, paired(*arms), -1))
    largest = tried[-1]
    what = f"short of chance, {TOP_16} minus {LORA_R1}, at {largest:,} tokens"
    arms = [evidence.over(arm, "to_chance_nats", [largest]) for arm in (TOP_16, LORA_R1)]
    found = paired(*arms)
    rule = (
        f"median of −{AT_CHANCE_NATS} or more (LoRA has caught up), at {SMALL_BELOW} tokens or more"
    )
    if largest < SMALL_BELOW or found is None or np.isnan(found.low):
        return [*parts, Part("C1", what, rule, NOT_TESTABLE)]
    verdict = REPRODUCED if found.value >= -AT_CHANCE_NATS else NOT_REPRODUCED
    return [*parts, Part("C1", what, rule, verdict, found.value, found.low, found.high)]


def c2(evidence: Evidence) -> list[Part]:
    """Top 16 and the LoRAs damage the languages that are not protected."""
    parts = []
    for arm in (TOP_16, *LORAS):
        others = evidence.at(arm, "off_target_damage_nats").dropna()
        own = evidence.at(arm, "protected_damage_nats")
        what = f"{arm}: mean damage to the other languages minus damage to the protected"
        parts.append(directional("C2", what, paired(others, own), 1))
    return parts


def c3(evidence: Evidence) -> list[Part]:
    """Most of the top 16 are labelled as foreign languages in general, one as German alone."""
    rules = (
        "more than half (the write-up: 14 of 16); reversed where more than half are exclusive",
        "1 or more",
    )
    what = (
        f"of the {TOP_16}, those that fire for several languages but the protected ones (count)",
        f"of the {TOP_16}, those labelled as {evidence.target} alone (count)",
    )
    fires = evidence.fires
    own = None if fires is None else fires[fires["arm"] == TOP_16]
    if own is None or own.empty:
        return [Part("C3", w, r, NOT_TESTABLE) for w, r in zip(what, rules, strict=True)]
    spared = str(evidence.frame["protected_languages"].iloc[0]).split()
    fired = [set(text.split(",")) - {*spared, "code", ""} for text in own["languages"]]
    several = sum(len(languages) > 1 for languages in fired)
    alone = int((own["exclusive"] & (own["languages"] == evidence.target)).sum())
    half = len(own) / 2
    general = REPRODUCED if several > half else REVERSED if alone > half else NOT_REPRODUCED
    return [
        Part("C3", what[0], rules[0], general, several, text=f"{several} of {len(own)}"),
        Part(
            *("C3", what[1], rules[1], REPRODUCED if alone else NOT_REPRODUCED, alone),
            text=f"{alone} of {len(own)}",
        ),
    ]


def c4(evidence: Evidence) -> list[Part]:
    """One scalar needs about 4 tokens, LoRA about 32; the scale ends near -1."""
    tokens: Any = evidence.tokens
    parts: list[Part] = []
    what, rule = f"tokens to target, {ONE_SCALAR}", "8 or fewer (the write-up: 4)"
    if ONE_SCALAR not in tokens.index:
        return [Part("C4", what, rule, NOT_TESTABLE)]
    scalar = tokens.loc[ONE_SCALAR]
    needed = scalar["target_tokens"]
    reached = needed is not pd.NA
    verdict = REPRODUCED if reached and needed <= 8 else NOT_REPRODUCED
    parts.append(Part("C4", what, rule, verdict, text=tokens_text(scalar)))
    rule = f"4 times {ONE_SCALAR}'s or more (the write-up: 8 times); reversed where fewer than it"
    for arm in LORAS:
        what = f"tokens to target, {arm}"
        if arm not in tokens.index:
            parts.append(Part("C4", what, rule, NOT_TESTABLE))
            continue
        row = tokens.loc[arm]
        beyond = row["target_tokens"] is pd.NA
        least = int(row["largest_budget"]) + 1 if beyond else int(row["target_tokens"])
        if reached:
            verdict = REPRODUCED if least >= 4 * int(needed) else NOT_REPRODUCED
            verdict = REVERSED if least < int(needed) else verdict
        else:
            verdict = NOT_REPRODUCED if beyond else REVERSED
        parts.append(Part("C4", what, rule, verdict, text=tokens_text(row)))
    return [*parts, *_scale(evidence), _rise(evidence)]


def _scale(evidence: Evidence) -> list[Part]:
    own = evidence.frame[evidence.frame["arm"] == ONE_SCALAR]
    own = own[own["budget"] == evidence.budgets[ONE_SCALAR]]
    found = estimate(np.array([next(iter(masks.values())) for masks in own["masks"]]))
    inverted = directional("C4", "the scale m at the end (no unit)", found, -1)
    near = REPRODUCED if -2 <= found.value <= -0.5 else NOT_REPRODUCED
    rule = "median from -2 to -1/2 (the write-up: near -1)"
    return [
        inverted,
        Part("C4", "the same", rule, near, found.value, found.low, found.high),
    ]


def _rise(evidence: Evidence) -> Part:
    rises = evidence.at(ONE_SCALAR, "target_ce_nats") - evidence.at(
        ONE_SCALAR, "base_target_ce_nats"
    )
    found = _median(rises)
    rule = "none: another vocabulary and base loss than the write-up's 6.5 nats"
    what = f"rise of {evidence.target} cross-entropy, {ONE_SCALAR}"
    if found is None:
        return Part("C4", what, rule, NOT_TESTABLE)
    return Part("C4", what, rule, NOT_TESTABLE, found.value, found.low, found.high)


def c5(evidence: Evidence) -> list[Part]:
    """One scalar leaves French and Spanish almost untouched, unlike LoRA; Italian suffers."""
    parts = []
    pair = ("damage_fr_nats", "damage_es_nats")
    for language, column in (("fr", pair[0]), ("es", pair[1])):
        found = _median(evidence.at(ONE_SCALAR, column))
        parts.append(
            directional("C5", f"{ONE_SCALAR}: damage to {language}", found, -1, DAMAGE_NATS)
        )
    both = evidence.at(ONE_SCALAR, *pair)
    for arm in LORAS:
        what = f"mean damage to fr and es, {ONE_SCALAR} minus {arm}"
        parts.append(directional("C5", what, paired(both, evidence.at(arm, *pair)), -1))
    what = f"{ONE_SCALAR}: damage to it minus mean damage to fr and es"
    italian = evidence.at(ONE_SCALAR, "damage_it_nats")
    return [*parts, directional("C5", what, paired(italian, both), 1)]


def c6(evidence: Evidence) -> list[Part]:
    """Rank 4 is somewhat better than rank 1 but nothing changes."""
    tried = sorted(int(value) for value in evidence.frame["budget"].unique())
    arms = [evidence.over(arm, "to_chance_nats", tried) for arm in (LORA_R4, LORA_R1)]
    what = f"short of chance, {LORA_R4} minus {LORA_R1}, mean over all budgets"
    better = directional("C6", what, paired(*arms), -1)
    what = f"tokens to target, {LORA_R4} (and {LORA_R1})"
    rule = "within a factor of 2 of each other, or neither reaches it"
    if not {LORA_R1, LORA_R4} <= set(evidence.tokens.index):
        return [better, Part("C6", what, rule, NOT_TESTABLE)]
    tokens: Any = evidence.tokens
    four, one = (tokens.loc[arm] for arm in (LORA_R4, LORA_R1))
    absent = [row["target_tokens"] is pd.NA for row in (four, one)]
    if any(absent):
        same = all(absent)
    else:
        same = 0.5 <= int(four["target_tokens"]) / int(one["target_tokens"]) <= 2
    text = f"{tokens_text(four)} (and {tokens_text(one)})"
    return [better, Part("C6", what, rule, REPRODUCED if same else NOT_REPRODUCED, text=text)]


def c7(evidence: Evidence) -> list[Part]:
    """Rank-1 LoRA on the same matrix alone has larger off-target damage than the scalar."""
    first, second = (
        evidence.at(arm, "off_target_damage_nats").dropna() for arm in (LOCALISED, ONE_SCALAR)
    )
    what = f"mean damage to the other languages, {LOCALISED} minus {ONE_SCALAR}"
    return [directional("C7", what, paired(first, second), 1)]


def c8(evidence: Evidence) -> list[Part]:
    """Rollouts before and after show it."""
    kept = str(evidence.frame["protected_languages"].iloc[0]).split()[0]
    after, before = _shares(evidence, ONE_SCALAR), _shares(evidence, UNEDITED)
    parts = []
    for language, sign, factor, how in (
        (evidence.target, -1, 0.5, "half of that before"),
        (kept, 1, 0.9, "nine tenths of that before"),
    ):
        what = f"{ONE_SCALAR}: share of {language} prompts continued in {language}"
        if language not in after or language not in before:
            parts.append(Part("C8", what, how, NOT_TESTABLE))
            continue
        limit = factor * float(before[language].mean())
        found = directional("C8", what, estimate(after[language].to_numpy()), sign, limit)
        was = f"{what} (before: {before[language].mean():.2f})"
        rule = f"interval {'below' if sign < 0 else 'above'} {how}"
        text = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        interval = (found.value, found.low, found.high)
        parts.append(Part("C8", was, rule, found.verdict, *interval, text=text))
    return parts


def _shares(evidence: Evidence, arm: str) -> dict[str, pd.Series]:
    """Share of continuations in the prompt's language by seed, greedy and sampled together."""
    if evidence.rollouts is None:
        return {}
    own = evidence.rollouts[evidence.rollouts["arm"] == arm]
    by_run = shares(own.assign(mode="all"), evidence.target)
    return {str(code): part["as_prompt"] for code, part in by_run.groupby("language")}


CLAIMS: dict[str, Callable[[Evidence], list[Part]]] = {
    "C1": c1,
    "C2": c2,
    "C3": c3,
    "C4": c4,
    "C5": c5,
    "C6": c6,
    "C7": c7,
    "C8": c8,
}
STATEMENTS = {
    "C1": "Tuning the top 16 by mean causal importance on German minus on English beats rank-1 "
    "LoRA at few German tokens (closer to chance, less English damage); at more, LoRA catches up.",
    "C2": "The top-16 edit and the LoRAs damage French, Spanish and Italian: English alone is "
    "protected.",
    "C3": "Most of the 16 are about foreign languages in general (14 of 16); one label is German "
    "alone.",
    "C4": "That one scalar reaches chance with about 4 German tokens for less than 0.10 nats of "
    "English, LoRA needs about 32; the scale ends near −1, German rises by about 6.5 nats.",
    "C5": "The one-scalar edit leaves French and Spanish almost untouched, unlike every LoRA; it "
    "still damages Italian.",
    "C6": "Rank-4 LoRA is somewhat better than rank 1 and changes nothing qualitatively.",
    "C7": "Rank-1 LoRA on the same matrix alone still has larger off-target damage than the one "
    "scalar.",
    "C8": "Text generated before and after the edit shows it.",
}


def answers(evidence: Evidence) -> list[Part]:
    """All parts of all claims, in order."""
    return [part for claim in CLAIMS.values() for part in claim(evidence)]


def verdicts(parts: Sequence[Part]) -> dict[str, str]:
    """The overall verdict per claim."""
    return {name: overall([part for part in parts if part.claim == name]) for name in CLAIMS}
