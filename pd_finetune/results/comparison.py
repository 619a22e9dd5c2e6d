"""Where arms are compared: the budget at which each reaches what is asked of it, or its best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pd_finetune.results.arms import arms_of
from pd_finetune.results.summary import INTERVAL_PERCENT, by_seed, medians, resampled
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

_CRITERIA = ("to_chance_nats", "protected_damage_nats")


def comparison_budgets(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm the budget at which arms are compared: arm, budget, at_chance, to_chance_nats.

    The smallest at which the median run is at chance (gap of 0.1 nats or less); where there is
    none (`at_chance` false) the arm's best, the one of smallest median gap.
    """
    rows = []
    for arm in arms_of(frame["arm"]):
        gaps: Any = frame[frame["arm"] == arm].groupby("budget")["to_chance_nats"].median()
        reached = gaps[gaps <= AT_CHANCE_NATS]
        budget = int(reached.index[0] if len(reached) else gaps.idxmin())
        rows.append((arm, budget, len(reached) > 0, float(gaps.loc[budget])))
    return pd.DataFrame(rows, columns=["arm", "budget", "at_chance", "to_chance_nats"])


def _first(
    values: Float[np.ndarray, "samples budgets criteria"], budgets: list[int], both: bool
) -> Float[np.ndarray, " samples"]:
    """Smallest budget at chance, `both`: with the protected language kept too; else infinite."""
    met = values[..., 0] <= AT_CHANCE_NATS
    if both:
        met &= values[..., 1] < DAMAGE_NATS
    places = np.where(met.any(axis=1), met.argmax(axis=1), len(budgets))
    return np.array([*budgets, np.inf], dtype=np.float64)[places]


def tokens_to_target(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm the smallest budget at chance, and at chance with the protected language kept.

    At chance: the median over seeds of the gap is at most 0.1 nats. Kept: the median of the
    protected damage is below 0.10 nats. Absent (NA) where no budget tried fulfils it. `_low` and
    `_high`: 95 % bootstrap interval over seeds; NA there means beyond `largest_budget`, or that
    the seeds of the budgets differ (`_low` and `_high` both NA, and `intervals` false).
    """
    rows = []
    for arm in arms_of(frame["arm"]):
        own = frame[frame["arm"] == arm]
        budgets = sorted(int(value) for value in own["budget"].unique())
        wide = [own.pivot(index="seed", columns="budget", values=name) for name in _CRITERIA]
        values = np.stack([table[budgets].to_numpy(np.float64) for table in wide], axis=-1)
        known = len(values) > 1 and not np.isnan(values).any()
        row: dict[str, object] = {"arm": arm}
        plain = np.nanmedian(values, axis=0, keepdims=True)
        sampled = medians(resampled(values)) if known else plain
        for name, both in (("at_chance_tokens", False), ("target_tokens", True)):
            # of numbers of tokens, some infinite: order statistics, nothing in between
            found = _first(sampled, budgets, both)
            ends = (
                np.percentile(found, INTERVAL_PERCENT, method="nearest") if known else [np.inf] * 2
            )
            for end, value in zip(
                ("", "_low", "_high"), (*_first(plain, budgets, both), *ends), strict=True
            ):
                row[f"{name}{end}"] = int(value) if np.isfinite(value) else pd.NA
        rows.append(row | {"largest_budget": max(budgets), "intervals": known})
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(table.columns[1:-1], "Int64"))


def tokens_text(row: pd.Series, name: str = "target_tokens") -> str:
    """`16 [16, 64]`, `> 64 [1, > 64]`: a number of tokens with its interval, or that none did."""
    beyond = f"> {int(row['largest_budget']):,}"
    value, low, high = (
        beyond if pd.isna(row[f"{name}{end}"]) else f"{int(row[f'{name}{end}']):,}"
        for end in ("", "_low", "_high")
    )
    return f"{value} [{low}, {high}]" if row["intervals"] else value


@dataclass
class Comparison:
    """What the claims are held against.

    Args:
        frame: of `runs_frame`.
        fires: of `fires_on`, where there is a harvest.
        rollouts: of `read_rollouts`, where there are some.
    """

    frame: pd.DataFrame
    fires: pd.DataFrame | None = None
    rollouts: pd.DataFrame | None = None

    @property
    def target(self) -> str:
        return str(self.frame["target_language"].iloc[0])

    @cached_property
    def tried(self) -> list[int]:
        """All budgets."""
        return sorted(int(value) for value in self.frame["budget"].unique())

    @cached_property
    def budgets(self) -> dict[str, int]:
        """The budget at which each arm is compared."""
        table = comparison_budgets(self.frame)
        return dict(zip(table["arm"], table["budget"], strict=True))

    @cached_property
    def tokens(self) -> Any:
        """`tokens_to_target` by arm."""
        return tokens_to_target(self.frame).set_index("arm")

    def at(self, arm: str, *columns: str) -> pd.Series:
        """Mean of some measures by seed, at the arm's comparison budget; empty without the arm."""
        if arm not in self.budgets or not set(columns) <= set(self.frame.columns):
            return pd.Series(dtype=np.float64)
        found = [by_seed(self.frame, arm, self.budgets[arm], name) for name in columns]
        return sum(found[1:], found[0]) / len(found)

    def over(self, arm: str, column: str, budgets: Sequence[int]) -> pd.Series:
        """Mean of a measure over budgets by seed, of seeds that have them all.

        Of the gap to chance what is short of it: beyond counts as 0.
        """
        wanted = list(budgets)
        own = self.frame[(self.frame["arm"] == arm) & self.frame["budget"].isin(wanted)]
        if own.empty:
            return pd.Series(dtype=np.float64)
        wide = own.pivot(index="seed", columns="budget", values=column).reindex(columns=wanted)
        if column == "to_chance_nats":
            wide = wide.clip(lower=0.0)
        return wide.mean(axis=1, skipna=False).dropna()
