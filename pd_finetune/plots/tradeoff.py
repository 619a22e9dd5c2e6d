"""What is gained against what it costs: target cross-entropy and protected damage."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots import style
from pd_finetune.plots.lines import label_ends
from pd_finetune.results.summary import measure
from pd_finetune.results.table import DAMAGE_NATS

_GAIN, _COST = "target_ce_nats", "protected_damage_nats"
_SHORTEST_ARROW = 14.0  # points; between marks nearer than that there is no room for a head


def _area(place: int, places: int) -> float:
    """Area of a mark in square points, from the smallest budget to the largest."""
    return 14.0 + 76.0 * place / max(places - 1, 1)


def _arrows(axes: Axes, points: np.ndarray, colour: str) -> None:
    """A head in the middle of each segment that is long enough, pointing to the larger budget."""
    at = axes.transData.transform(points) * 72 / axes.figure.dpi
    head = {"arrowstyle": "-|>", "color": colour, "linewidth": 0, "mutation_scale": 11}
    for n, (first, second) in enumerate(itertools.pairwise(points)):
        if np.hypot(*(at[n + 1] - at[n])) >= _SHORTEST_ARROW:
            tip, tail = (first + part * (second - first) for part in (0.58, 0.42))
            axes.annotate("", tip, tail, arrowprops=head | {"shrinkA": 0, "shrinkB": 0})


def draw(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing:
    """Medians of each arm, joined from the smallest budget to the largest; chance is marked."""
    keys = ["arm", "budget", "seeds"]
    gain, cost = (
        measure(summary, name)[[*keys, "median"]].rename(columns={"median": name})
        for name in (_GAIN, _COST)
    )
    numbers = gain.merge(cost, on=keys)
    styles = style.looks(frame)
    target, protected = style.target_name(frame), style.protected_name(frame)
    chance, base = (float(frame[name].iloc[0]) for name in ("chance_nats", "base_target_ce_nats"))
    budgets = sorted(int(value) for value in numbers["budget"].unique())
    subtitle = (
        f"{style.runs_note('median', numbers['seeds'])}; arrows and growing marks: from "
        f"{budgets[0]:,} to {budgets[-1]:,} {target} tokens"
    )
    title = f"{protected} damage against {target} destroyed"
    with style.canvas(title, subtitle, (6.6, 4.4)) as (figure, axes):
        axes.set_xlabel(f"{target} cross-entropy [nats per token]")
        axes.set_ylabel(f"{protected} damage [nats per token]")
        x, y = numbers[_GAIN], numbers[_COST]
        low, high = min(0.0, y.min()), max(DAMAGE_NATS, y.max())
        axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))
        right = max(chance, x.max())
        axes.set_xlim(min(base, x.min()) - 0.05 * (right - base), right + 0.06 * (right - base))
        label = f"{DAMAGE_NATS:.2f} nats"
        style.mark_level(axes, DAMAGE_NATS, label, above=True, dashed=True, right=True)
        axes.axvline(chance, color=style.MUTED, linewidth=0.8, zorder=1)
        top = {"fontsize": 8, "verticalalignment": "top"}
        there = {"xycoords": ("data", "axes fraction"), "horizontalalignment": "right"}
        style.note(axes, "chance", (chance, 1), (-3, -2), **top, **there)
        axes.plot(base, 0.0, marker="*", markersize=9, color=style.INK, linestyle="none")
        style.note(axes, "unedited", (base, 0.0), (0, -6), color=style.INK, **top)
        ends = {}
        for arm, look in styles.items():
            own = numbers[numbers["arm"] == arm]
            axes.plot(own[_GAIN], own[_COST], color=look.colour, linewidth=1.4)
            axes.scatter(
                own[_GAIN],
                own[_COST],
                s=[_area(budgets.index(int(budget)), len(budgets)) for budget in own["budget"]],
                color=look.colour,
                marker=look.marker,
                edgecolor="white",
                linewidth=0.5,
                zorder=3,
            )
            points = own[[_GAIN, _COST]].to_numpy()
            _arrows(axes, points, look.colour)
            ends[arm] = (float(points[-1, 0]), float(points[-1, 1]))
        label_ends(axes, ends, styles)
    return style.Drawing(figure, numbers)
