"""Compute spent against the number of edits: scales of subcomponents beside other edits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots import style
from pd_finetune.results import published_costs
from pd_finetune.results.arms import arms_of
from pd_finetune.results.costs import HERE

_DECADES_BEYOND = 1.5


def table(break_even: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """The lines to draw: per model an arm that scales, and the rivals that do as well as it.

    Args:
        break_even: of `results.break_even.break_even`; its first arm is shown.
        costs: with those of `results.published_costs.costs`.
    """
    flops = break_even[(break_even["currency"] == "flops") & ~break_even["off_target"].astype(bool)]
    here = flops[flops["arm"] == flops["arm"].iloc[0]].drop(columns=["off_target", "currency"])
    (arm, budget), (rival, rival_budget) = published_costs.EDITS.items()
    published = costs[costs["model"] == published_costs.PUBLISHED]
    there = {"arm": arm, "budget": budget, "rival": rival, "rival_budget": rival_budget}
    row = pd.DataFrame([there | published_costs.break_even(published)])
    models = [HERE] * len(here) + [published_costs.PUBLISHED]
    both = pd.concat([here, row.astype({"rival_budget": "Int64"})], ignore_index=True)
    return both.assign(model=models)[["model", *here.columns]]


def _panel(axes: Axes, own: pd.DataFrame) -> None:
    arms = arms_of([*own["arm"], *own["rival"]])
    comparable = own[own["rival_edit"].notna()]
    ends = comparable["edits"][np.isfinite(comparable["edits"])]
    last = 10 ** (math.ceil(math.log10(ends.max())) + _DECADES_BEYOND) if len(ends) else 1e6
    n = np.geomspace(1.0, last, 200)
    axes.set_xscale("log")
    axes.set_yscale("log")
    first: Any = next(own.itertuples())
    text = f"decomposition, then {arms[first.arm].label}, {style.tokens(first.budget)} an edit"
    spent = first.fixed + n * first.edit
    axes.plot(n, spent, color=arms[first.arm].colour, linewidth=2, label=text)
    row: Any
    for row in comparable.itertuples():
        rival = arms[row.rival]
        text = f"{rival.label}, {style.tokens(row.rival_budget)}"
        axes.plot(n, n * row.rival_edit, color=rival.colour, linewidth=2, label=text)
        if np.isfinite(row.edits):
            at = (row.edits, row.edits * row.rival_edit)
            axes.plot(*at, marker="o", color=style.INK, markersize=6, zorder=4)
            text = f"about {float(f'{row.edits:.1e}'):,.0f} edits"
            style.note(axes, text, at, (-6, 8), color=style.INK, horizontalalignment="right")
    absent = [arms[name].label for name in own.loc[own["rival_edit"].isna(), "rival"]]
    text = f"never as good: {', '.join(absent)}" if absent else ""
    style.note(axes, text, (0.98, 0.03), (0, 0), xycoords="axes fraction", ha="right")
    axes.set_xlabel("edits")
    axes.legend(fontsize=8, loc="lower right", handlelength=1.0, borderaxespad=0.0)


def draw(break_even: pd.DataFrame, costs: pd.DataFrame) -> style.Drawing | None:
    """Cumulative FLOPs over edits, with the crossing where there is one; None without rivals."""
    if break_even.empty:
        return None
    numbers = table(break_even, costs)
    subtitle = (
        "FLOPs by formula, at equal gap to chance and equal damage to the protected; the mark is "
        "the number\nof edits from which on the decomposition has paid"
    )
    with style.grid("Cost over many edits", subtitle, 1, 2, (9.6, 4.2)) as (figure, [axes]):
        for panel, (model, own) in zip(axes, numbers.groupby("model", sort=False), strict=True):
            panel.set_title(str(model))
            _panel(panel, own)
        axes[0].set_ylabel("FLOPs, cumulative")
    return style.Drawing(figure, numbers)
