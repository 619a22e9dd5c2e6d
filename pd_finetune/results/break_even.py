"""After how many edits a decomposition with masks has cost less than LoRA at equal damage."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pd_finetune.results.arms import LORAS, MASKS
from pd_finetune.results.reached import comparison_budgets
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

CURRENCIES = ("target_tokens", "flops", "seconds")
COLUMNS = (
    "mask",
    "mask_budget",
    "lora",
    "lora_budget",
    "off_target",
    "currency",
    "fixed",
    "mask_edit",
    "lora_edit",
    "edits",
)
_ALLOWED = {
    "to_chance_nats": AT_CHANCE_NATS,
    "protected_damage_nats": DAMAGE_NATS,
    "off_target_damage_nats": DAMAGE_NATS,
}


def equal_budget(
    frame: pd.DataFrame, mask: str, budget: int, lora: str, off_target: bool
) -> int | None:
    """The smallest budget at which a LoRA arm does as well as a mask arm at its own, or None.

    As well: its median gap to chance and median protected damage are no larger than the mask's, or
    within 0.1 nats, which counts as reached; with `off_target`, its off-target damage too.
    """
    names = list(_ALLOWED)[: 3 if off_target else 2]
    own = frame[(frame["arm"] == mask) & (frame["budget"] == budget)]
    limits = own[names].median().clip(lower=pd.Series(_ALLOWED)[names])
    medians = frame[frame["arm"] == lora].groupby("budget")[names].median()
    equal = medians[(medians <= limits).all(axis=1)]
    return int(equal.index[0]) if len(equal) else None


def edits_to_break_even(fixed: float, mask_edit: float, lora_edit: float) -> float:
    """fixed / (LoRA's edit - the mask's), rounded up; infinite where an edit saves nothing."""
    saved = lora_edit - mask_edit
    return float(math.ceil(fixed / saved)) if saved > 0 else math.inf


def break_even(frame: pd.DataFrame, prepared: pd.DataFrame, edits: pd.DataFrame) -> pd.DataFrame:
    """One row per mask arm, LoRA arm, criterion and currency.

    Columns: mask, mask_budget, lora, lora_budget (absent where the LoRA does as well at no budget
    tried), off_target (whether that counts among the damage), currency, fixed, mask_edit,
    lora_edit, edits (infinite: never; NaN: not comparable).

    The target's own training counts for neither; tuning neither, as both get the same number of
    trials, once per method.
    """
    paid = prepared[prepared["stage"] != "target"]
    own = comparison_budgets(frame).set_index("arm")["budget"]
    cost: Any = edits.set_index(["arm", "budget"])
    rows = []
    for mask in (arm for arm in MASKS if arm in own.index):
        at = int(own[mask])
        for lora in (arm for arm in LORAS if arm in own.index):
            for off_target in (False, True):
                budget = equal_budget(frame, mask, at, lora, off_target)
                for currency in CURRENCIES:
                    fixed = float(paid[currency].sum())
                    mask_edit = float(cost.loc[(mask, at), currency])
                    lora_edit = (
                        math.nan if budget is None else float(cost.loc[(lora, budget), currency])
                    )
                    needed = edits_to_break_even(fixed, mask_edit, lora_edit)
                    rows.append(
                        {
                            "mask": mask,
                            "mask_budget": at,
                            "lora": lora,
                            "lora_budget": budget,
                            "off_target": off_target,
                            "currency": currency,
                            "fixed": fixed,
                            "mask_edit": mask_edit,
                            "lora_edit": lora_edit,
                            "edits": math.nan if budget is None else needed,
                        }
                    )
    # without masks or without LoRAs there is no row, but a table all the same
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"lora_budget": "Int64"})
