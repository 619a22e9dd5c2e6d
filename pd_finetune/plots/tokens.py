"""How many target tokens each arm needs: at chance, and at chance with little damage."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots import style
from pd_finetune.results.comparison import tokens_text, tokens_to_target

_CRITERIA = (("at_chance_tokens", -0.17, False), ("target_tokens", 0.17, True))


def _mark(axes: Axes, row: pd.Series, name: str, y: float, look: style.Look, full: bool) -> None:
    """One row's mark with its interval; an arrow at the right where the budgets did not suffice."""
    beyond = int(row["largest_budget"]) * 1.9
    x, low, high = (
        beyond if row[f"{name}{end}"] is pd.NA else int(row[f"{name}{end}"])
        for end in ("", "_low", "_high")
    )
    if row["intervals"]:
        axes.plot([low, high], [y, y], color=look.colour, linewidth=1.4, zorder=2)
    face = look.colour if full else "white"
    marker = ">" if x == beyond else look.marker
    axes.plot(x, y, marker=marker, markersize=8, color=look.colour, markerfacecolor=face, zorder=3)
    end = max(x, high) if row["intervals"] else x
    text = tokens_text(row, name)
    style.note(axes, text, (end, y), (8, 0), color=style.INK, verticalalignment="center")


def draw(frame: pd.DataFrame) -> style.Drawing:
    """Per arm two marks: hollow for chance alone, full for chance with the protected damage low."""
    numbers = tokens_to_target(frame)
    styles = style.looks(frame)
    subtitle = (
        "smallest budget whose median run is at chance (hollow), and keeps "
        f"{style.protected_name(frame)} below 0.10 nats too (full);\n"
        "line: 95 % bootstrap interval; arrow: at none that was tried"
    )
    size = (6.6, 1.4 + 0.5 * len(styles))
    with style.grid("Tokens to target", subtitle, 1, 1, size) as (figure, [[axes]]):
        budgets = sorted(int(value) for value in frame["budget"].unique())
        style.budget_axis(axes, budgets, style.target_name(frame))
        axes.set_xlim(budgets[0] / 1.35, budgets[-1] * 5.0)
        for place, (arm, look) in enumerate(styles.items()):
            row = numbers[numbers["arm"] == arm].iloc[0]
            for name, shift, full in _CRITERIA:
                _mark(axes, row, name, place + shift, look, full)
        axes.set_yticks(range(len(styles)), [look.label for look in styles.values()])
        axes.set_ylim(len(styles) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
    return style.Drawing(figure, numbers)
