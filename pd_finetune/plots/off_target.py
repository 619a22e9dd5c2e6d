"""What languages lose that nobody asked to lose: bars from zero to the true means."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pd_finetune.errors import UserError
from pd_finetune.plots import style
from pd_finetune.results.reached import comparison_budgets
from pd_finetune.results.summary import damage_languages, measure
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

_HALF_WIDTH = 46  # letters of a legend in two columns


def table(frame: pd.DataFrame, summary: pd.DataFrame, budget: int | None = None) -> pd.DataFrame:
    """Mean damage per arm and language at one budget, with `at_chance` and the median gap there.

    Args:
        budget: for every arm; by default each arm's own (`comparison_budgets`): the smallest at
            which its median run is at chance, or else its best.

    Raises:
        UserError: no run has that budget.
    """
    budgets = sorted(int(value) for value in frame["budget"].unique())
    if budget is not None and budget not in budgets:
        raise UserError(f"budget={budget}: possible are {', '.join(map(str, budgets))}")
    gaps: Any = measure(summary, "to_chance_nats").set_index(["arm", "budget"])["median"]
    parts = []
    for arm, best in comparison_budgets(frame).set_index("arm")["budget"].items():
        own = int(best) if budget is None else budget
        at = summary[(summary["arm"] == arm) & (summary["budget"] == own)]
        if at.empty:
            continue
        for language in damage_languages(frame):
            part = measure(at, f"damage_{language}_nats")
            kept = part[["arm", "budget", "seeds", "mean", "mean_low", "mean_high"]]
            gap = float(gaps.loc[(arm, own)])
            parts.append(
                kept.assign(language=language, to_chance_nats=gap, at_chance=gap <= AT_CHANCE_NATS)
            )
    return pd.concat(parts, ignore_index=True)


def _label(row: pd.Series, best: bool) -> str:
    """Arm, budget, and how far from chance it is where it is not there."""
    tokens, gap = int(row["budget"]), float(row["to_chance_nats"])
    plural = "" if tokens == 1 else "s"
    missed = f", {gap:.2f} nats short" + (" at best" if best else "")
    return f"{row['arm']}, {tokens:,} token{plural}{'' if row['at_chance'] else missed}"


def draw(frame: pd.DataFrame, summary: pd.DataFrame, budget: int | None = None) -> style.Drawing:
    """One bar per arm and language; its height is the mean damage, not a hair more."""
    numbers = table(frame, summary, budget)
    styles = style.looks(frame)
    languages = damage_languages(frame)
    arms = [arm for arm in styles if arm in set(numbers["arm"])]
    width = 0.84 / len(arms)
    labels = [_label(numbers[numbers["arm"] == arm].iloc[0], budget is None) for arm in arms]
    columns = 2 if max(map(len, labels)) <= _HALF_WIDTH else 1
    size = (6.6, 4.0 + 0.19 * math.ceil(len(arms) / columns))
    protected = ", ".join(style.protected_names(frame))
    subtitle = f"{style.runs_note('mean', numbers['seeds'], 'line')}; protected: {protected}"
    if not numbers["at_chance"].all():
        subtitle += "; hatched: not at chance"
    with style.canvas("Damage by language", subtitle, size) as (figure, axes):
        axes.set_ylabel("rise of cross-entropy [nats per token]")
        axes.spines["bottom"].set_visible(False)  # the line at zero is the floor
        axes.axhline(0.0, color=style.INK, linewidth=0.8, zorder=3)
        for place, arm in enumerate(arms):
            own = numbers[numbers["arm"] == arm].set_index("language").loc[languages]
            positions = [n + (place - (len(arms) - 1) / 2) * width for n in range(len(languages))]
            axes.bar(
                positions,
                own["mean"].to_numpy(),
                width=width * 0.92,
                color=styles[arm].colour,
                hatch=None if own["at_chance"].all() else "////",
                edgecolor="white",
                linewidth=0,
                label=labels[place],
            )
            axes.vlines(
                positions,
                own["mean_low"].to_numpy(),
                own["mean_high"].to_numpy(),
                color=style.INK,
                linewidth=0.9,
                zorder=4,
            )
        axes.set_xticks(range(len(languages)), [style.language_name(name) for name in languages])
        axes.tick_params(axis="x", length=0)
        axes.axhline(DAMAGE_NATS, color=style.MUTED, linewidth=0.8, linestyle="--", zorder=1)
        figure.legend(
            loc="outside lower left",
            ncols=columns,
            fontsize=8.5,
            title=f"arm, and its budget of {style.target_name(frame)} training tokens",
            title_fontsize=8.5,
            alignment="left",
        )
    return style.Drawing(figure, numbers)
