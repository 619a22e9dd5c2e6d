"""The trials of tuning: how one is scored, and the tables they are kept in, one CSV an arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_finetune.errors import UserError
from pd_finetune.results.table import DAMAGE_NATS

ALSO = "also"  # a third setting of the method: `alpha=4.0`, `start=0.0`
COLUMNS = (
    *("arm", "lr", "kl_weight", "budget", "seed", "to_chance_nats", "english_damage_nats"),
    ALSO,
)
DAMAGE_WEIGHT = 10.0  # nats short of chance that a nat of damage beyond 0.10 counts for


def score(to_chance_nats: Any, damage_nats: Any) -> Any:
    """Nats short of chance + 10 * (protected damage over 0.10 nats); lower is better, 0 the best.

    By this rule settings are chosen, on validation text; of equal scores the lower damage. Numbers
    or series of them.
    """
    short = np.maximum(to_chance_nats, 0.0)
    return short + DAMAGE_WEIGHT * np.maximum(damage_nats - DAMAGE_NATS, 0.0)


def read_trials(folder: Path) -> pd.DataFrame:
    """All trials of a folder with their `score`; empty without any.

    Raises:
        UserError: a CSV there is not one of trials.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for path in sorted(folder.glob("*.csv")):
        try:
            kinds = {"arm": str, ALSO: str} | dict.fromkeys(COLUMNS[1:-1], np.float64)
            part = pd.read_csv(path)[list(COLUMNS)].astype(kinds)
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"'{path}' holds no tuning trials ({error}): its columns must be "
                f"{', '.join(COLUMNS)}; move it away, or set tuning=<folder>"
            ) from None
        parts.append(part)
    trials = pd.concat(parts[1:] or parts, ignore_index=True)
    trials = trials.drop_duplicates([*COLUMNS[:5], ALSO])
    return trials.assign(score=score(trials["to_chance_nats"], trials["english_damage_nats"]))


def cells(trials: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by arm, budget, lr, kl_weight and third setting, with `trials` behind it."""
    keys = ["arm", "budget", "lr", "kl_weight", ALSO]
    values = ["to_chance_nats", "english_damage_nats", "score"]
    grouped = trials.groupby(keys, sort=True)
    return grouped[values].mean().assign(trials=grouped.size()).reset_index()


def usual_third(trials: pd.DataFrame, arm: str) -> str:
    """The third setting of an arm's grid: that of most of its trials."""
    return str(trials[trials["arm"] == arm][ALSO].mode().iloc[0])


def used_settings(frame: pd.DataFrame, arm: str, budget: float) -> dict[str, float]:
    """Settings of the arm's reported runs at the budget nearest by ratio; empty without any."""
    own = frame[frame["arm"] == arm]
    if own.empty:
        return {}
    distance = np.abs(np.log(own["budget"].to_numpy(np.float64) / budget))
    return dict(own["settings"].iloc[int(distance.argmin())])
