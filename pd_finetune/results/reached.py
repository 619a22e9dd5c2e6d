"""At which budget an arm reaches what is asked of it, with intervals; and where it is compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pd_finetune.results.arms import arms_of
from pd_finetune.results.intervals import resampled_medians, seeds_by_budget
from pd_finetune.results.summary import INTERVAL_PERCENT
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

_CRITERIA = ("to_chance_nats", "protected_damage_nats")


def _first(met: np.ndarray, budgets: list[int]) -> Float[np.ndarray, " resamples"]:
    """Smallest budget that meets the criterion in each resample [resamples budgets], else inf."""
    places = np.where(met.any(axis=1), met.argmax(axis=1), len(budgets))
    return np.array([*budgets, np.inf], dtype=np.float64)[places]


def _tokens(value: float) -> object:
    return int(value) if np.isfinite(value) else pd.NA


def tokens_to_target(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm the smallest budget at chance, and at chance with the protected language kept.

    At chance: the median over seeds of the gap is at most 0.1 nats. Kept: the median of the
    protected damage is below 0.10 nats. Absent (NA) where no budget tried fulfils it. `_low` and
    `_high`: 95 % bootstrap interval over seeds; NA there means beyond `largest_budget`, or that
    the seeds of the budgets differ (`_low` and `_high` both NA, and `intervals` false).
    """
    rows = []
    for arm in arms_of(frame):
        own = frame[frame["arm"] == arm]
        budgets, values = seeds_by_budget(own, list(_CRITERIA))
        row: dict[str, object] = {"arm": arm, "largest_budget": max(budgets)}
        plain = own.groupby("budget")[list(_CRITERIA)].median().to_numpy()[None]
        sampled = None if values is None else resampled_medians(values)
        row["intervals"] = sampled is not None
        for name, both in (("at_chance_tokens", False), ("target_tokens", True)):
            row[name] = _tokens(_first(_meets(plain, both), budgets)[0])
            low, high = np.nan, np.nan
            if sampled is not None:
                found = _first(_meets(sampled, both), budgets)
                # of numbers of tokens, some infinite: order statistics, nothing in between
                low, high = np.percentile(found, INTERVAL_PERCENT, method="nearest")
            row |= {f"{name}_low": _tokens(low), f"{name}_high": _tokens(high)}
        rows.append(row)
    columns = ["arm"]
    for name in ("at_chance_tokens", "target_tokens"):
        columns += [name, f"{name}_low", f"{name}_high"]
    table = pd.DataFrame(rows)[[*columns, "largest_budget", "intervals"]]
    return table.astype(dict.fromkeys(columns[1:], "Int64"))


def _meets(medians: np.ndarray, both: bool) -> np.ndarray:
    """Which [resamples budgets] are at chance, `both`: with the protected language kept too."""
    at_chance = medians[..., 0] <= AT_CHANCE_NATS
    return at_chance & (medians[..., 1] < DAMAGE_NATS) if both else at_chance


def tokens_text(row: pd.Series, name: str = "target_tokens") -> str:
    """`16 [16, 64]`, `> 64 [1, > 64]`: a number of tokens with its interval, or that none did."""
    beyond = f"> {int(row['largest_budget']):,}"
    value, low, high = (
        beyond if pd.isna(row[f"{name}{end}"]) else f"{int(row[f'{name}{end}']):,}"
        for end in ("", "_low", "_high")
    )
    return f"{value} [{low}, {high}]" if row["intervals"] else value


def comparison_budgets(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm the budget at which arms are compared: arm, budget, at_chance, to_chance_nats.

    The smallest at which the median run is at chance (gap of 0.1 nats or less); where there is
    none (`at_chance` false) the arm's best, the one of smallest median gap.
    """
    rows = []
    for arm in arms_of(frame):
        gaps: Any = frame[frame["arm"] == arm].groupby("budget")["to_chance_nats"].median()
        reached = gaps[gaps <= AT_CHANCE_NATS]
        budget = int(reached.index[0] if len(reached) else gaps.idxmin())
        rows.append((arm, budget, len(reached) > 0, float(gaps.loc[budget])))
    return pd.DataFrame(rows, columns=["arm", "budget", "at_chance", "to_chance_nats"])
