"""Rules by which a claim counts as reproduced, not reproduced or reversed.

The page of results states them in words: `report/templates/page.md.j2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pd_finetune.results.summary import Estimate

REPRODUCED, NOT_REPRODUCED, REVERSED = "reproduced", "not reproduced", "reversed"
NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Part:
    """One testable statement: what was measured, the rule, and what follows.

    `value` is a median over seeds unless `what` says otherwise; low and high are NaN without an
    interval. `text` replaces the number where it is none (tokens beyond the budgets tried).
    """

    claim: str
    what: str
    rule: str
    verdict: str
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    text: str = ""


def directional(
    claim: str, what: str, found: Estimate | None, sign: int, limit: float = 0.0
) -> Part:
    """A claim that a number lies above (`sign` 1) or below (-1) a limit."""
    side = "above" if sign > 0 else "below"
    rule = f"interval {side} {limit:g}"
    if found is None or np.isnan(found.low):
        return Part(claim, what, rule, NOT_TESTABLE)
    low, high = found.low - limit, found.high - limit
    holds, fails = (low > 0, high < 0) if sign > 0 else (high < 0, low > 0)
    verdict = REPRODUCED if holds else REVERSED if fails else NOT_REPRODUCED
    return Part(claim, what, rule, verdict, found.value, found.low, found.high)


def overall(parts: Sequence[Part]) -> str:
    """The verdict on a claim of several parts."""
    verdicts = {part.verdict for part in parts} - {NOT_TESTABLE}
    if not verdicts:
        return NOT_TESTABLE
    return verdicts.pop() if len(verdicts) == 1 else NOT_REPRODUCED
