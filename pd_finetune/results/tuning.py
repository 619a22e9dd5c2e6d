"""The trials of tuning, as kept by `pd_finetune.studies.tune`: one CSV an arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pd_finetune.errors import UserError
from pd_finetune.results.arms import LOCALISED, LORA_R1, LORA_R4, ONE_SCALAR, TOP_16
from pd_finetune.results.table import DAMAGE_NATS

ALSO = "also"  # a third setting of the method: `alpha=4.0`, `start=0.0`
COLUMNS = (
    *("arm", "lr", "kl_weight", "budget", "seed", "to_chance_nats", "english_damage_nats"),
    ALSO,
)
DAMAGE_WEIGHT = 10.0  # nats short of chance that a nat of damage beyond 0.10 counts for
_NAMES = {
    "one_scalar": ONE_SCALAR,
    "top16": TOP_16,
    "lora_r1": LORA_R1,
    "lora_r4": LORA_R4,
    "localized_lora": LOCALISED,
}


def score(to_chance_nats: pd.Series, damage_nats: pd.Series) -> pd.Series:
    """Nats short of chance + 10 * (protected damage over 0.10 nats); lower is better, 0 the best.

    By this rule settings are chosen (`pd_finetune.studies.tune`), on validation text.
    """
    return to_chance_nats.clip(lower=0) + DAMAGE_WEIGHT * (damage_nats - DAMAGE_NATS).clip(lower=0)


def read_trials(folder: Path) -> pd.DataFrame:
    """All trials of a folder with their `score`, arms named as in the tables; empty without any.

    Raises:
        UserError: a CSV there is not one of trials.
    """
    parts = []
    for path in sorted(folder.glob("*.csv")):
        try:
            part = pd.read_csv(path, dtype={ALSO: str})[list(COLUMNS)]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"'{path}' holds no tuning trials ({error}): its columns must be "
                f"{', '.join(COLUMNS)}; move it away, or set tuning=<folder>"
            ) from None
        parts.append(part)
    if not parts:
        return pd.DataFrame(columns=[*COLUMNS, "score"])
    trials = pd.concat(parts, ignore_index=True).drop_duplicates([*COLUMNS[:5], ALSO])
    trials["arm"] = [_NAMES.get(arm, arm) for arm in trials["arm"]]
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


def used_third(frame: pd.DataFrame, arm: str) -> str:
    """The third setting of an arm's reported runs, empty without any."""
    own = frame[frame["arm"] == arm]
    for name in ("start", "alpha"):
        if len(found := own[name].dropna()):
            return f"{name}={found.iloc[0]}"
    return ""


def used_setting(frame: pd.DataFrame, arm: str, budget: int) -> tuple[float, float] | None:
    """(lr, kl_weight) of the arm's reported runs at the budget nearest by ratio; None without."""
    own = frame[(frame["arm"] == arm) & frame["lr"].notna() & frame["kl_weight"].notna()]
    if own.empty:
        return None
    distance = np.abs(np.log(own["budget"].to_numpy(np.float64) / budget))
    row = own.iloc[int(distance.argmin())]
    return float(row["lr"]), float(row["kl_weight"])
