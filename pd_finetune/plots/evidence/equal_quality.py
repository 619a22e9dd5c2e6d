"""Quality against sparsity of decompositions that took different times."""

from __future__ import annotations

from itertools import cycle

import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.evidence.front import sparsity_axes

COLUMNS = {"kl_stochastic": "stochastic masks", "kl_fresh_adversary": "fresh adversary"}
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
RIVALS = ["*", "P", "X", "s"]


def draw(rows: pd.DataFrame) -> style.Drawing:
    """CI-L0 against KL, both logarithmic, a panel per kind of masks.

    Args:
        rows: a row per decomposition: `recipe`, `share`, `lr`, `coefficient`, `minutes`, `ci_l0`
            and the columns of `COLUMNS`. Those of the recipe `paper` are points of their own, the
            others are joined by share and learning rate.
    """
    rivals = rows[rows["recipe"] == "paper"]
    lines = rows[rows["recipe"] != "paper"].groupby(["share", "lr"])
    title = "Equal quality in less time"
    subtitle = "minutes of training in brackets; lower left is better"
    size = (8.6, 3.6)
    with style.grid(title, subtitle, 1, len(COLUMNS), size) as (figure, [panels]):
        for axes, (column, name) in zip(panels, COLUMNS.items(), strict=True):
            sparsity_axes(axes, f"KL, {name}")
            for ((share, lr), line), colour in zip(lines, cycle(COLOURS)):
                points = line.sort_values("ci_l0")
                minutes = points["minutes"].mean()
                axes.plot(
                    points["ci_l0"],
                    points[column],
                    color=colour,
                    marker="o",
                    markersize=4,
                    linewidth=1.4,
                    label=f"merged, lr {lr:g}, 1/{share:g} ({minutes:.0f})",
                )
            for rival, marker in zip(rivals.to_dict("records"), cycle(RIVALS)):
                settings = f"lr {rival['lr']:g}, minimality {rival['coefficient']:g}"
                axes.plot(
                    rival["ci_l0"],
                    rival[column],
                    color=style.INK,
                    marker=marker,
                    markersize=8,
                    linestyle="none",
                    label=f"paper, {settings} ({rival['minutes']:.0f})",
                )
            axes.margins(0.12)
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return style.Drawing(figure, rows)
