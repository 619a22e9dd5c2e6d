"""Statistics over seeds: medians and means with bootstrap intervals, paired where runs compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

RESAMPLES, INTERVAL_PERCENT = 10_000, (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A median over seeds with its 95 % interval; NaN bounds where one run says nothing."""

    value: float
    low: float
    high: float
    seeds: int


def resampled(
    values: Float[np.ndarray, "seeds *measures"],
) -> Float[np.ndarray, "resamples seeds *measures"]:
    """Runs drawn with replacement, the same ones for the same number of runs.

    A seed is drawn with all of its measures and budgets, as these are nested.
    """
    runs = len(values)
    return values[np.random.default_rng(0).integers(runs, size=(RESAMPLES, runs))]


def medians(values: Float[np.ndarray, "a seeds *b"]) -> Float[np.ndarray, "a *b"]:
    """Medians over the second axis; numpy's own takes five times as long over a few runs."""
    runs = values.shape[1]
    ordered = np.sort(values, axis=1)
    return (ordered[:, (runs - 1) // 2] + ordered[:, runs // 2]) / 2


def estimate(values: Float[np.ndarray, " seeds"]) -> Estimate:
    """Median with percentile bootstrap interval.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("no values to take a median of")
    low, high = np.nan, np.nan
    if len(values) > 1:
        low, high = np.percentile(medians(resampled(values)), INTERVAL_PERCENT)
    return Estimate(float(np.median(values)), float(low), float(high), len(values))


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


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Median and mean over seeds with 95 % bootstrap intervals, per arm, budget and measure."""
    measures = ["to_chance_nats", "target_ce_nats", "protected_damage_nats", "protected_kl_nats"]
    measures.append("off_target_damage_nats")
    measures += [str(column) for column in frame.columns if str(column).startswith("damage_")]
    parts = []
    for (arm, budget), own in frame.groupby(["arm", "budget"], sort=False):
        values = own[measures].to_numpy(dtype=np.float64)
        found = {"median": np.median(values, axis=0), "mean": np.mean(values, axis=0)}
        samples = resampled(values) if len(values) > 1 else np.full((1, *values.shape), np.nan)
        for name, of_samples in (("median", medians(samples)), ("mean", samples.mean(axis=1))):
            low, high = np.percentile(of_samples, INTERVAL_PERCENT, axis=0)
            found |= {f"{name}_low": low, f"{name}_high": high}
        keys = {"arm": arm, "budget": budget, "measure": measures, "seeds": len(own)}
        parts.append(pd.DataFrame(keys | found))
    return pd.concat(parts, ignore_index=True)


def measure(summary: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one measure."""
    return summary[summary["measure"] == name].reset_index(drop=True)
