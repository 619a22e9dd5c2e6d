"""The section that answers the write-up's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from pd_finetune.plots.tables import markdown
from pd_finetune.report.headline import interval
from pd_finetune.results import verdicts as rules
from pd_finetune.results.claims import STATEMENTS, verdicts
from pd_finetune.results.verdicts import Part


def _measured(part: Part) -> str:
    if part.text:
        return part.text
    return "–" if math.isnan(part.value) else interval(part.value, part.low, part.high, 3)


def verdict_table(parts: Sequence[Part]) -> pd.DataFrame:
    """Claim, statement and overall verdict with the number of parts that hold."""
    rows = []
    for name, verdict in verdicts(parts).items():
        own = [part.verdict for part in parts if part.claim == name]
        testable = [found for found in own if found != rules.NOT_TESTABLE]
        counts = f"{own.count(rules.REPRODUCED)} of {len(testable)}"
        rows.append((name, STATEMENTS[name], f"**{verdict}**", counts))
    return pd.DataFrame(rows, columns=["", "claim", "verdict", "parts reproduced"])


def part_table(parts: Sequence[Part]) -> pd.DataFrame:
    """Every part with its number, interval, rule and verdict."""
    rows = [(part.claim, part.what, _measured(part), part.rule, part.verdict) for part in parts]
    return pd.DataFrame(rows, columns=["", "measured", "value [interval]", "rule", "verdict"])


def section(parts: Sequence[Part]) -> str:
    """Verdicts, then the parts they are made of, with the rules in words."""
    stated = (rules.__doc__ or "").split("\n\n", 1)[1].strip()
    return (
        f"{markdown(verdict_table(parts))}\n"
        "The rules, fixed in code (`pd_finetune/results/verdicts.py`):\n\n"
        f"{stated}\n\n"
        "Arms are compared where their median run is first at chance, or else at their best budget "
        "(marked * above). Differences are taken run by run of the same seed, which draws the same "
        "tokens for all arms. Nats per token, where nothing else is said.\n\n"
        f"{markdown(part_table(parts))}"
    )
