"""What languages lose that nobody asked to lose: bars from zero to the true means."""

from __future__ import annotations

import math

import pandas as pd

from pd_finetune.plots import style
from pd_finetune.results.comparison import comparison_budgets
from pd_finetune.results.frame import damage_languages
from pd_finetune.results.table import DAMAGE_NATS

_HALF_WIDTH = 46  # letters of a legend in two columns


def table(frame: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Mean damage per arm and language, with `at_chance` and the median gap there.

    At each arm's own budget (`comparison_budgets`): the smallest at which its median run is at
    chance, or else its best.
    """
    names = {f"damage_{language}_nats": language for language in damage_languages(frame)}
    kept = ["arm", "budget", "seeds", "mean", "mean_low", "mean_high", "measure"]
    own = summary.loc[summary["measure"].isin(list(names)), kept]
    found = comparison_budgets(frame).merge(own, on=["arm", "budget"])
    languages = found["measure"].map(names)
    order = languages.map(list(names.values()).index)
    arms = found["arm"].map(list(dict.fromkeys(found["arm"])).index)
    found = found.assign(language=languages, arm_order=arms, order=order)
    found = found.sort_values(["arm_order", "order"], ignore_index=True)
    return found[[*kept[:-1], "language", "to_chance_nats", "at_chance"]]


def _label(row: pd.Series, look: style.Look) -> str:
    """Arm, budget, and how far from chance it is where it is not there."""
    missed = "" if row["at_chance"] else f", {row['to_chance_nats']:.2f} nats short at best"
    return f"{look.label}, {style.tokens(int(row['budget']))}{missed}"


def draw(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing:
    """One bar per arm and language; its height is the mean damage, not a hair more."""
    numbers = table(frame, summary)
    styles = style.looks(frame)
    languages = damage_languages(frame)
    width = 0.84 / len(styles)
    by_arm = {arm: numbers[numbers["arm"] == arm].set_index("language") for arm in styles}
    labels = [_label(own.iloc[0], styles[arm]) for arm, own in by_arm.items()]
    columns = 2 if max(map(len, labels)) <= _HALF_WIDTH else 1
    size = (6.6, 4.0 + 0.19 * math.ceil(len(styles) / columns))
    protected = ", ".join(style.protected_names(frame))
    subtitle = f"{style.runs_note('mean', numbers['seeds'], 'line')}; protected: {protected}"
    if not numbers["at_chance"].all():
        subtitle += "; hatched: not at chance"
    with style.canvas("Damage by language", subtitle, size) as (figure, axes):
        axes.set_ylabel("rise of cross-entropy [nats per token]")
        axes.spines["bottom"].set_visible(False)  # the line at zero is the floor
        axes.axhline(0.0, color=style.INK, linewidth=0.8, zorder=3)
        for place, (arm, own) in enumerate(by_arm.items()):
            shift = (place - (len(styles) - 1) / 2) * width
            positions = [n + shift for n in range(len(languages))]
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
            low, high = own["mean_low"].to_numpy(), own["mean_high"].to_numpy()
            axes.vlines(positions, low, high, color=style.INK, linewidth=0.9, zorder=4)
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
