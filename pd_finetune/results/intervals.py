"""Bootstrap intervals over seeds, paired by seed where two arms or budgets are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from pd_finetune.results.summary import INTERVAL_PERCENT, RESAMPLES


@dataclass(frozen=True)
class Estimate:
    """A median over seeds with its 95 % interval; NaN bounds where one run says nothing."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def above_zero(self) -> bool:
        """The whole interval is above 0; never so without an interval."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """The whole interval is below 0; never so without an interval."""
        return self.high < 0


def _draws(runs: int) -> np.ndarray:
    """Indices of the resampled runs, the same for the same number of runs."""
    return np.random.default_rng(0).integers(runs, size=(RESAMPLES, runs))


def estimate(values: Float[np.ndarray, " seeds"]) -> Estimate:
    """Median with percentile bootstrap interval.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("no values to take a median of")
    value = float(np.median(values))
    if len(values) == 1:
        return Estimate(value, float("nan"), float("nan"), 1)
    medians = np.median(values[_draws(len(values))], axis=1)
    low, high = np.percentile(medians, INTERVAL_PERCENT)
    return Estimate(value, float(low), float(high), len(values))


def by_seed(frame: pd.DataFrame, arm: str, budget: int, column: str) -> pd.Series:
    """One measure of an arm at a budget, indexed by seed."""
    own = frame[(frame["arm"] == arm) & (frame["budget"] == budget)]
    return own.set_index("seed")[column].astype(np.float64)


def paired(first: pd.Series, second: pd.Series) -> Estimate | None:
    """Median over seeds of `first - second`, run with run of the same seed; None without such.

    Seeds, not single differences, are resampled: a seed draws the same German tokens for all arms.
    """
    difference = (first - second).dropna()
    return estimate(difference.to_numpy()) if len(difference) else None


def seeds_by_budget(
    own: pd.DataFrame, columns: list[str]
) -> tuple[list[int], Float[np.ndarray, "seeds budgets measures"] | None]:
    """Budgets of one arm, and its runs by seed; None where seeds are missing at some budget."""
    budgets = sorted(int(value) for value in own["budget"].unique())
    tables = [own.pivot(index="seed", columns="budget", values=name) for name in columns]
    values = np.stack([table[budgets].to_numpy(np.float64) for table in tables], axis=-1)
    return budgets, None if len(values) < 2 or np.isnan(values).any() else values


def resampled_medians(
    values: Float[np.ndarray, "seeds budgets measures"],
) -> Float[np.ndarray, "resamples budgets measures"]:
    """Medians over resampled seeds; a seed is drawn with all of its budgets, as they are nested."""
    return np.median(values[_draws(len(values))], axis=1)
