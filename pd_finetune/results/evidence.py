"""What the claims are held against: runs, what was selected, what the edited models write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from pd_finetune.results.intervals import by_seed
from pd_finetune.results.reached import comparison_budgets, tokens_to_target


@dataclass
class Evidence:
    """What the claims are held against.

    Args:
        frame: of `runs_frame`.
        fires: of `fires_on`, where there is a harvest.
        rollouts: of `read_rollouts`, where there are some.
    """

    frame: pd.DataFrame
    fires: pd.DataFrame | None = None
    rollouts: pd.DataFrame | None = None
    target: str = field(init=False)

    def __post_init__(self) -> None:
        self.target = str(self.frame["target_language"].iloc[0])

    @cached_property
    def budgets(self) -> dict[str, int]:
        """The budget at which each arm is compared."""
        table = comparison_budgets(self.frame)
        return dict(zip(table["arm"], table["budget"], strict=True))

    @cached_property
    def tokens(self) -> pd.DataFrame:
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
