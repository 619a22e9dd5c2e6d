"""After how many edits a decomposition has paid: scales of subcomponents beside other edits."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pandas as pd

from pd_finetune.results.arms import arms_of
from pd_finetune.results.comparison import comparison_budgets
from pd_finetune.results.costs import HERE, ONCE, PER_EDIT
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

CURRENCIES = ("target_tokens", "flops", "seconds")
_PAIR = ("arm", "budget", "rival", "rival_budget", "off_target")
COLUMNS = (*_PAIR, "currency", "fixed", "edit", "rival_edit", "edits")
_ALLOWED = {
    "to_chance_nats": AT_CHANCE_NATS,
    "protected_damage_nats": DAMAGE_NATS,
    "off_target_damage_nats": DAMAGE_NATS,
}


def equal_budget(
    frame: pd.DataFrame, arm: str, budget: int, rival: str, off_target: bool
) -> int | None:
    """The smallest budget at which a rival does as well as an arm at its own, or None.

    As well: its median gap to chance and median protected damage are no larger than the arm's, or
    within 0.1 nats, which counts as reached; with `off_target`, its off-target damage too.
    """
    names = list(_ALLOWED)[: 3 if off_target else 2]
    own = frame[(frame["arm"] == arm) & (frame["budget"] == budget)]
    limits = own[names].median().clip(lower=pd.Series(_ALLOWED)[names])
    medians = frame[frame["arm"] == rival].groupby("budget")[names].median()
    equal = medians[(medians <= limits).all(axis=1)]
    return int(equal.index[0]) if len(equal) else None


def edits_to_break_even(fixed: float, edit: float, rival_edit: float) -> float:
    """fixed / (the rival's edit - the arm's), rounded up; infinite where an edit saves nothing."""
    saved = rival_edit - edit
    return float(math.ceil(fixed / saved)) if saved > 0 else math.inf


def scaling_arms(frame: pd.DataFrame) -> list[str]:
    """The arms that scale subcomponents, and so need a decomposition."""
    return list(arms_of(frame.loc[frame["masks"].map(len) > 0, "arm"]))


def break_even(frame: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm that scales subcomponents, rival that does not, criterion and currency.

    Columns: arm, budget, rival, rival_budget (absent where the rival does as well at no budget
    tried), off_target (whether that counts among the damage), currency, fixed, edit, rival_edit,
    edits (infinite: never; NaN: not comparable).

    The target's own training counts for neither; tuning neither, as all get the same number of
    trials, once per method.
    """
    own = costs[costs["model"] == HERE]
    fixed = own[(own["counted"] == ONCE) & (own["stage"] != "target")][list(CURRENCIES)].sum()
    cost: Any = own[own["counted"] == PER_EDIT].set_index(["arm", "budget"])
    budgets, scaling = comparison_budgets(frame).set_index("arm")["budget"], scaling_arms(frame)
    rivals = [name for name in budgets.index if name not in scaling]
    rows = []
    for arm, rival, off_target, currency in product(scaling, rivals, (False, True), CURRENCIES):
        at = int(budgets[arm])
        budget = equal_budget(frame, arm, at, rival, off_target)
        paid, edit = float(fixed[currency]), float(cost.loc[(arm, at), currency])
        other, edits = math.nan, math.nan
        if budget is not None:
            other = float(cost.loc[(rival, budget), currency])
            edits = edits_to_break_even(paid, edit, other)
        pair = (arm, at, rival, budget, off_target)
        rows.append((*pair, currency, paid, edit, other, edits))
    # where all arms scale or none does there is no row, but a table all the same
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"rival_budget": "Int64"})
