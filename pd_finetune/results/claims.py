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

from pd_finetune.results.arms import label
from pd_finetune.results.comparison import Comparison, tokens_text
from pd_finetune.results.frame import protected_of
from pd_finetune.results.rollouts import UNEDITED, shares
from pd_finetune.results.summary import Estimate, estimate, paired
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

# the write-up is about just these arms
ONE_SCALAR, TOP_16 = "one_scalar", "top16"
LORA_R1, LORA_R4, LOCALISED = "lora_r1", "lora_r4", "localized_lora"
LORAS = (LORA_R1, LORA_R4, LOCALISED)
SMALL_BELOW = 32  # German tokens from which on the write-up's LoRAs reach the target


def _median(values: pd.Series) -> Estimate | None:
    return estimate(values.to_numpy()) if len(values) else None


def _over(runs: Comparison, arms: Sequence[str], column: str, budgets: Sequence[int]) -> Any:
    """First less second arm, by the mean of a measure over budgets, paired by seed."""
    return paired(*(runs.over(arm, column, budgets) for arm in arms))


def c1(runs: Comparison) -> list[Part]:
    """Top 16 beats rank-1 LoRA at small budgets; at larger ones LoRA catches up."""
    arms, versus = (TOP_16, LORA_R1), f"{label(TOP_16)} minus {label(LORA_R1)}"
    small, largest = [budget for budget in runs.tried if budget < SMALL_BELOW], runs.tried[-1]
    measures = {"short of chance": "to_chance_nats"}
    measures["damage to the protected"] = "protected_damage_nats"
    parts = []
    for name, column in measures.items():
        what = f"{name}, {versus}, mean over budgets below {SMALL_BELOW} tokens"
        parts.append(directional("C1", what, _over(runs, arms, column, small), -1))
    what = f"short of chance, {versus}, at {largest:,} tokens"
    rule = f"median of −{AT_CHANCE_NATS} or more (LoRA has caught up)"
    rule += f", at {SMALL_BELOW} tokens or more"
    found = _over(runs, arms, "to_chance_nats", [largest]) if largest >= SMALL_BELOW else None
    if found is None or np.isnan(found.low):
        return [*parts, Part("C1", what, rule, NOT_TESTABLE)]
    verdict = REPRODUCED if found.value >= -AT_CHANCE_NATS else NOT_REPRODUCED
    return [*parts, Part("C1", what, rule, verdict, found.value, found.low, found.high)]


def c2(runs: Comparison) -> list[Part]:
    """Top 16 and the LoRAs damage the languages that are not protected."""
    parts = []
    for arm in (TOP_16, *LORAS):
        others = runs.at(arm, "off_target_damage_nats").dropna()
        what = f"{label(arm)}: mean damage to the other languages minus damage to the protected"
        found = paired(others, runs.at(arm, "protected_damage_nats"))
        parts.append(directional("C2", what, found, 1))
    return parts


def c3(runs: Comparison) -> list[Part]:
    """Most of the top 16 are labelled as foreign languages in general, one as German alone."""
    of = f"of the {label(TOP_16)}, those"
    several_of = f"{of} that fire for several languages but the protected ones (count)"
    rule = "more than half (the write-up: 14 of 16); reversed where more than half are exclusive"
    alone_of = f"{of} labelled as {runs.target} alone (count)"
    own = None if runs.fires is None else runs.fires[runs.fires["arm"] == TOP_16]
    if own is None or own.empty:
        return [
            Part("C3", several_of, rule, NOT_TESTABLE),
            Part("C3", alone_of, "1 or more", NOT_TESTABLE),
        ]
    spared = {*protected_of(runs.frame), "code", ""}
    several = sum(len(set(text.split(",")) - spared) > 1 for text in own["languages"])
    alone = int((own["exclusive"] & (own["languages"] == runs.target)).sum())
    half = len(own) / 2
    general = REPRODUCED if several > half else REVERSED if alone > half else NOT_REPRODUCED
    one = REPRODUCED if alone else NOT_REPRODUCED
    return [
        Part("C3", several_of, rule, general, several, text=f"{several} of {len(own)}"),
        Part("C3", alone_of, "1 or more", one, alone, text=f"{alone} of {len(own)}"),
    ]


def c4(runs: Comparison) -> list[Part]:
    """One scalar needs about 4 tokens, LoRA about 32; the scale ends near -1."""
    what, rule = f"tokens to target, {label(ONE_SCALAR)}", "8 or fewer (the write-up: 4)"
    if ONE_SCALAR not in runs.tokens.index:
        return [Part("C4", what, rule, NOT_TESTABLE)]
    needed = _needed(runs, ONE_SCALAR)
    verdict = REPRODUCED if needed <= 8 else NOT_REPRODUCED
    parts = [Part("C4", what, rule, verdict, text=tokens_text(runs.tokens.loc[ONE_SCALAR]))]
    rule = f"4 times {label(ONE_SCALAR)}'s or more (the write-up: 8 times)"
    rule += "; reversed where fewer than it"
    for arm in LORAS:
        what = f"tokens to target, {label(arm)}"
        if arm not in runs.tokens.index:
            parts.append(Part("C4", what, rule, NOT_TESTABLE))
            continue
        row = runs.tokens.loc[arm]
        # one that never gets there needs more than the largest budget
        least = min(_needed(runs, arm), int(row["largest_budget"]) + 1)
        enough = np.isfinite(needed) and least >= 4 * needed
        fewer = _needed(runs, arm) < needed
        verdict = REPRODUCED if enough else REVERSED if fewer else NOT_REPRODUCED
        parts.append(Part("C4", what, rule, verdict, text=tokens_text(row)))
    own = runs.frame[runs.frame["arm"] == ONE_SCALAR]
    own = own[own["budget"] == runs.budgets[ONE_SCALAR]]
    scale = estimate(np.array([next(iter(masks.values())) for masks in own["masks"]]))
    near = "median from -2 to -1/2 (the write-up: near -1)"
    close = REPRODUCED if -2 <= scale.value <= -0.5 else NOT_REPRODUCED
    parts.append(directional("C4", "the scale m at the end (no unit)", scale, -1))
    parts.append(Part("C4", "the same", near, close, scale.value, scale.low, scale.high))
    rise = _median(
        runs.at(ONE_SCALAR, "target_ce_nats") - runs.at(ONE_SCALAR, "base_target_ce_nats")
    )
    numbers = () if rise is None else (rise.value, rise.low, rise.high)
    what = f"rise of {runs.target} cross-entropy, {label(ONE_SCALAR)}"
    rule = "none: another vocabulary and base loss than the write-up's 6.5 nats"
    return [*parts, Part("C4", what, rule, NOT_TESTABLE, *numbers)]


def _needed(runs: Comparison, arm: str) -> float:
    """Tokens to target; infinite where no budget sufficed."""
    found = runs.tokens.loc[arm, "target_tokens"]
    return np.inf if pd.isna(found) else float(found)


def c5(runs: Comparison) -> list[Part]:
    """One scalar leaves French and Spanish almost untouched, unlike LoRA; Italian suffers."""
    parts, pair = [], ("damage_fr_nats", "damage_es_nats")
    scalar = label(ONE_SCALAR)
    for language, column in zip(("fr", "es"), pair, strict=True):
        found = _median(runs.at(ONE_SCALAR, column))
        parts.append(directional("C5", f"{scalar}: damage to {language}", found, -1, DAMAGE_NATS))
    both = runs.at(ONE_SCALAR, *pair)
    for arm in LORAS:
        what = f"mean damage to fr and es, {scalar} minus {label(arm)}"
        parts.append(directional("C5", what, paired(both, runs.at(arm, *pair)), -1))
    what = f"{scalar}: damage to it minus mean damage to fr and es"
    italian = runs.at(ONE_SCALAR, "damage_it_nats")
    return [*parts, directional("C5", what, paired(italian, both), 1)]


def c6(runs: Comparison) -> list[Part]:
    """Rank 4 is somewhat better than rank 1 but nothing changes."""
    arms, (four, one) = (LORA_R4, LORA_R1), (label(LORA_R4), label(LORA_R1))
    found = _over(runs, arms, "to_chance_nats", runs.tried)
    what = f"short of chance, {four} minus {one}, mean over all budgets"
    better = directional("C6", what, found, -1)
    what = f"tokens to target, {four} (and {one})"
    rule = "within a factor of 2 of each other, or neither reaches it"
    if not set(arms) <= set(runs.tokens.index):
        return [better, Part("C6", what, rule, NOT_TESTABLE)]
    needed = [_needed(runs, arm) for arm in arms]
    same = needed == [np.inf, np.inf] or 0.5 <= needed[0] / needed[1] <= 2
    text = "{} (and {})".format(*(tokens_text(runs.tokens.loc[arm]) for arm in arms))
    return [better, Part("C6", what, rule, REPRODUCED if same else NOT_REPRODUCED, text=text)]


def c7(runs: Comparison) -> list[Part]:
    """Rank-1 LoRA on the same matrix alone has larger off-target damage than the scalar."""
    arms = (LOCALISED, ONE_SCALAR)
    found = paired(*(runs.at(arm, "off_target_damage_nats").dropna() for arm in arms))
    what = "mean damage to the other languages, {} minus {}".format(*map(label, arms))
    return [directional("C7", what, found, 1)]


def c8(runs: Comparison) -> list[Part]:
    """Rollouts before and after show it."""
    after, before = _shares(runs, ONE_SCALAR), _shares(runs, UNEDITED)
    parts = []
    for language, sign, factor, how in (
        (runs.target, -1, 0.5, "half of that before"),
        (protected_of(runs.frame)[0], 1, 0.9, "nine tenths of that before"),
    ):
        what = f"{label(ONE_SCALAR)}: share of {language} prompts continued in {language}"
        if language not in after or language not in before:
            parts.append(Part("C8", what, how, NOT_TESTABLE))
            continue
        was = float(before[language].mean())
        found = estimate(after[language].to_numpy())
        verdict = directional("C8", what, found, sign, factor * was).verdict
        rule = f"interval {'below' if sign < 0 else 'above'} {how}"
        what += f" (before: {was:.2f})"
        numbers = (found.value, found.low, found.high)
        text = "{:.2f} [{:.2f}, {:.2f}]".format(*numbers)
        parts.append(Part("C8", what, rule, verdict, *numbers, text=text))
    return parts


def _shares(runs: Comparison, arm: str) -> dict[str, pd.Series[Any]]:
    """Share of continuations in the prompt's language by seed, greedy and sampled together."""
    if runs.rollouts is None:
        return {}
    own = runs.rollouts[runs.rollouts["arm"] == arm]
    by_run = shares(own.assign(mode="all"), runs.target)
    return {str(code): part["as_prompt"] for code, part in by_run.groupby("language")}


CLAIMS: dict[str, Callable[[Comparison], list[Part]]] = {
    claim.__name__.upper(): claim for claim in (c1, c2, c3, c4, c5, c6, c7, c8)
}


def answers(runs: Comparison) -> list[Part]:
    """All parts of all claims, in order."""
    return [part for claim in CLAIMS.values() for part in claim(runs)]


def verdicts(parts: Sequence[Part]) -> dict[str, str]:
    """The overall verdict per claim."""
    return {name: overall([part for part in parts if part.claim == name]) for name in CLAIMS}
