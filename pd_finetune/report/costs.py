"""The section on costs: what each stage takes, and when a decomposition has paid."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from pd_finetune.plots.tables import markdown
from pd_finetune.results import published_costs

_UNITS = {"target_tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}


def _amount(value: float) -> str:
    """A number at a glance: `1,024`, `2.1e14`, a dash where it is unknown."""
    if math.isnan(value):
        return "–"
    if value < 100 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 1e7 else f"{value:.1e}".replace("e+", "e")


def _rows(table: pd.DataFrame) -> Iterable[Any]:
    return table.itertuples()


def stage_table(prepared: pd.DataFrame, edits: pd.DataFrame, target: str) -> pd.DataFrame:
    """What is spent once per model, on tuning once per method, and on an edit."""
    rows = [
        (
            *(row.stage, row.counted, _amount(row.tokens), _amount(row.target_tokens)),
            *(_amount(row.flops), _amount(row.seconds), row.note),
        )
        for row in _rows(prepared)
    ]
    for arm, own in edits.groupby("arm", sort=False):
        first, last = own.iloc[0], own.iloc[-1]
        trials = int(first["tuning_trials"])
        rows.append(
            (
                *(f"tuning, {arm}", "once per method", "–", "–", _amount(first["tuning_flops"])),
                *(_amount(first["tuning_seconds"]), f"{trials} trials, seconds as of the runs"),
            )
        )
        span = f"{int(first['budget']):,} to {int(last['budget']):,} {target} tokens"
        rows.append(
            (
                *(f"edit, {arm}", "per edit", _range(own["tokens"]), _range(own["target_tokens"])),
                *(_range(own["flops"]), _range(own["seconds"]), span),
            )
        )
    columns = ["stage", "counted", "text tokens", f"of them {target}", "FLOPs", "seconds", "note"]
    return pd.DataFrame(rows, columns=columns)


def _range(values: pd.Series) -> str:
    low, high = _amount(float(values.min())), _amount(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _needed(row: pd.Series) -> str:
    if pd.isna(row["lora_budget"]):
        return "not comparable"
    edits = float(row["edits"])
    return "never: the LoRA edit is no dearer" if math.isinf(edits) else f"{edits:,.0f}"


def break_even_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per pair of arms and criterion: the budgets, and the edits to break even by currency."""
    rows = []
    keys = ["mask", "mask_budget", "lora", "lora_budget", "off_target"]
    key: Any
    for key, own in table.groupby(keys, sort=False, dropna=False):
        mask, at, lora, budget, off_target = key
        by_currency: Any = own.set_index("currency")
        rows.append(
            {
                "mask": f"{mask}, {at:,}",
                "LoRA": f"{lora}, " + ("at no budget" if pd.isna(budget) else f"{budget:,}"),
                "damage counted": "protected and other languages" if off_target else "protected",
                **{f"by {_UNITS[name]}": _needed(by_currency.loc[name]) for name in _UNITS},
            }
        )
    return pd.DataFrame(rows)


def _published(frame: pd.DataFrame) -> str:
    steps = float(frame["steps"].median())
    protected = float(frame["protected_tokens_per_step"].median())
    found = published_costs.break_even(steps, protected)
    prepared = published_costs.preparation()
    size = published_costs.sizes()
    low, high = published_costs.implied_utilisation()
    rows = [
        (row.stage, _amount(row.tokens), _amount(row.flops), row.note) for row in _rows(prepared)
    ]
    for budget, key in (
        (published_costs.MASK_TOKENS, "mask_edit"),
        (published_costs.LORA_TOKENS, "lora_edit"),
    ):
        note = f"{budget} German tokens (the write-up); {steps:.0f} steps with {protected:.0f} "
        note += "protected tokens each (assumed, as here)"
        name = "edit, one scalar" if key == "mask_edit" else "edit, LoRA"
        rows.append((name, _amount(steps * (budget + protected)), _amount(found[key]), note))
    table = pd.DataFrame(rows, columns=["stage", "text tokens", "FLOPs", "note"])
    return (
        "### The published model\n\n"
        "From public figures; nothing of it was run. Weights: "
        f"{size.target:,} in the target, {size.components:,} in U and V, {size.ci_function:,} in "
        f"the causal-importance function.\n\n{markdown(table)}\n"
        f"Break-even by FLOPs: about {_amount(found['edits'])} edits, if 4 and 32 tokens are equal "
        "damage as the write-up says. The two accounts of the decomposition do not fit well: the "
        f"formula's FLOPs in 16 to 30 H100-hours would be {100 * low:.0f} to {100 * high:.0f} % of "
        "that processor's dense bf16 rate.\n"
    )


def _break_even(table: pd.DataFrame) -> str:
    if table.empty:
        return "No break-even: these runs have no mask arm beside a LoRA.\n"
    return (
        "After how many edits has the decomposition with masks cost less than LoRA **at equal "
        "damage**? The LoRA's budget is the smallest at which gap to chance and damage are no "
        "larger than the mask's at its own budget (or within 0.1 nats). By tokens: target-language "
        "tokens seen by decomposition, harvest and edits.\n\n"
        f"{markdown(break_even_table(table))}\n"
        '"Not comparable": the LoRA does as well at no budget tried, so that there is nothing to '
        "break even with. Tuning counts for neither: the same number of trials each. The localised "
        "LoRA's matrix was chosen by the decomposition, which is not charged to it.\n"
    )


def section(
    frame: pd.DataFrame, prepared: pd.DataFrame, edits: pd.DataFrame, table: pd.DataFrame
) -> str:
    """Stages, break-even, the published model, and what is assumed."""
    target = str(frame["target_language"].iloc[0])
    return (
        f"{markdown(stage_table(prepared, edits, target))}\n"
        "Tokens and seconds of decomposition and harvest are in their records, on the machine they "
        "were made on; seconds of edits are medians of the runs'. FLOPs are by formula "
        "(`pd_finetune/results/costs.py`), for N weights of the target with its head: training 6 N "
        "a token, a forward 2 N, an edit 4 N (forward, and gradients of inputs), whatever layers a "
        "faster implementation skips; attention scores, optimiser steps and evaluation are left "
        "out.\n\n"
        f"{_break_even(table)}\n"
        f"{_published(frame)}"
    )
