"""Compute spent against the number of edits: decomposition with masks beside LoRA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots import style
from pd_finetune.results import published_costs
from pd_finetune.results.arms import LORA_R1, ONE_SCALAR

_LEAST, _DECADES_BEYOND = 1.0, 1.5


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def _cases(frame: pd.DataFrame, table: pd.DataFrame) -> list[dict[str, object]]:
    """The lines to draw: per model the one scalar, and the LoRAs that do as well as it."""
    found: list[dict[str, object]] = []
    flops = table[(table["currency"] == "flops") & (table["mask"] == ONE_SCALAR)]
    flops = flops[~flops["off_target"].astype(bool)]
    row: Any
    for row in flops.itertuples():
        found.append(
            {
                "model": "embedded model, measured",
                "mask": f"{row.mask}, {_tokens(row.mask_budget)}",
                "lora": row.lora,
                "lora_budget": row.lora_budget,
                "fixed": row.fixed,
                "mask_edit": row.mask_edit,
                "lora_edit": row.lora_edit,
                "edits": row.edits,
            }
        )
    steps = float(frame["steps"].median())
    protected = float(frame["protected_tokens_per_step"].median())
    found.append(
        {
            "model": "published model, public figures",
            "mask": f"{ONE_SCALAR}, {published_costs.MASK_TOKENS} tokens",
            "lora": LORA_R1,
            "lora_budget": published_costs.LORA_TOKENS,
            **published_costs.break_even(steps, protected),
        }
    )
    return found


def _panel(axes: Axes, own: pd.DataFrame, styles: dict[str, style.Look]) -> None:
    comparable = own[own["lora_edit"].notna()]
    ends = comparable["edits"][np.isfinite(comparable["edits"])]
    last = 10 ** (math.ceil(math.log10(ends.max())) + _DECADES_BEYOND) if len(ends) else 1e6
    n = np.geomspace(_LEAST, last, 200)
    first = own.iloc[0]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(
        n,
        first["fixed"] + n * first["mask_edit"],
        color=styles[ONE_SCALAR].colour,
        linewidth=2,
        label=f"decomposition, then {first['mask']} an edit",
    )
    row: Any
    for row in comparable.itertuples():
        axes.plot(
            n,
            n * row.lora_edit,
            color=styles[row.lora].colour if row.lora in styles else style.INK,
            linewidth=2,
            label=f"{row.lora}, {_tokens(row.lora_budget)}",
        )
        if np.isfinite(row.edits):
            y = row.edits * row.lora_edit
            axes.plot(row.edits, y, marker="o", color=style.INK, markersize=6, zorder=4)
            axes.annotate(
                f"about {float(f'{row.edits:.1e}'):,.0f} edits",
                (row.edits, y),
                (-6, 8),
                textcoords="offset points",
                horizontalalignment="right",
                fontsize=8.5,
            )
    absent = own[own["lora_edit"].isna()]["lora"]
    text = f"never as good: {', '.join(absent)}" if len(absent) else ""
    axes.annotate(
        text, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8.5, color=style.MUTED
    )
    axes.set_xlabel("edits")
    axes.legend(fontsize=8, loc="lower right", handlelength=1.0, borderaxespad=0.0)


def draw(frame: pd.DataFrame, table: pd.DataFrame) -> style.Drawing | None:
    """Cumulative FLOPs over edits, with the crossing where there is one; None without one scalar.

    Args:
        table: as `results.break_even.break_even` makes it.
    """
    if table.empty or ONE_SCALAR not in set(table["mask"]):
        return None
    numbers = pd.DataFrame(_cases(frame, table)).astype({"lora_budget": "Int64"})
    models = list(dict.fromkeys(numbers["model"]))
    subtitle = (
        "FLOPs by formula, at equal gap to chance and equal English damage; the mark is the number "
        "of edits from which on the decomposition has paid"
    )
    with style.grid("Cost over many edits", subtitle, 1, len(models), (9.6, 4.2)) as (
        figure,
        [axes],
    ):
        for panel, model in zip(axes, models, strict=True):
            panel.set_title(model)
            _panel(panel, numbers[numbers["model"] == model], style.looks(frame))
        axes[0].set_ylabel("FLOPs, cumulative")
    return style.Drawing(figure, numbers)
