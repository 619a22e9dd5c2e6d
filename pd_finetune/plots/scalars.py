"""Where the scales end: m_c by seed and budget, of one subcomponent and of several."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize

from pd_finetune.plots import style
from pd_finetune.plots.lines import label_ends
from pd_finetune.results.arms import arms_of, label

_LEVELS = {1.0: "unedited", 0.0: "removed", -1.0: "inverted"}
_COLUMNS = ["arm", "budget", "seed", "place", "key", "m_c"]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per scale of every run: arm, budget, seed, place (from 1), key, m_c."""
    rows = [
        (*run, place, key, scale)
        for *run, masks in frame[["arm", "budget", "seed", "masks"]].to_numpy()
        for place, (key, scale) in enumerate(masks.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _beside(seeds: pd.Series) -> pd.Series:
    """Factors on a log axis that put the dots of different seeds side by side."""
    place = seeds.rank(method="dense")
    return 2.0 ** (0.25 * (place - (1 + place.max()) / 2) / place.max())


def draw(frame: pd.DataFrame) -> style.Drawing | None:
    """A dot per run, a line through the medians; None where no run has exactly one scale."""
    numbers = table(frame[frame["masks"].map(len) == 1]).drop(columns="place")
    if numbers.empty:
        return None
    present = arms_of(numbers["arm"])
    styles = {arm: look for arm, look in style.looks(frame).items() if arm in present}
    keys = numbers["key"].unique()
    subtitle = "a dot per run, lines through the medians"
    if len(keys) == 1:
        subtitle = f"m of {keys[0]}; {subtitle}"
    with style.canvas("The one scalar after fine-tuning", subtitle, (6.6, 4.0)) as (figure, axes):
        style.budget_axis(axes, numbers["budget"], style.target_name(frame))
        first, last = numbers["budget"].min(), numbers["budget"].max()
        span = math.log2(last / first) or 1.0
        # room for the levels' names on the left
        axes.set_xlim(first * 2.0 ** (-0.16 * span), last * 2.0 ** (0.06 * span))
        axes.set_ylabel("scale m of the subcomponent (no unit)")
        low, high = min(-1.0, numbers["m_c"].min()), max(1.0, numbers["m_c"].max())
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        for level, text in _LEVELS.items():
            style.mark_level(axes, level, text, above=level > 0)
        ends = {}
        for arm, look in styles.items():
            own = numbers[numbers["arm"] == arm]
            medians = own.groupby("budget")["m_c"].median()
            axes.plot(medians.index, medians, color=look.colour, linewidth=1.8)
            axes.plot(
                own["budget"] * _beside(own["seed"]),
                own["m_c"],
                color=look.colour,
                marker=look.marker,
                markersize=5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                linestyle="none",
            )
            ends[arm] = (float(medians.index[-1]), float(medians.iloc[-1]))
        if len(styles) > 1:
            label_ends(axes, ends, styles)
    return style.Drawing(figure, numbers)


def draw_several(frame: pd.DataFrame) -> style.Drawing | None:
    """A heat map: subcomponents in rows, runs in columns by budget and seed; white is unedited.

    Of the first arm that has several; its runs select the same subcomponents.
    """
    several = frame[frame["masks"].map(len) > 1]
    if several.empty:
        return None
    arm = several["arm"].iloc[0]
    numbers = table(several[several["arm"] == arm])
    wide = numbers.pivot(index="key", columns=["budget", "seed"], values="m_c")
    keys = numbers.drop_duplicates("key").sort_values("place")["key"]
    wide = wide.loc[keys].sort_index(axis=1)
    # 1 is unedited and stands in the middle of the colours; the outermost 2 % are cut off
    reach = max(float(np.nanpercentile(np.abs(wide.to_numpy() - 1.0), 98)), 1e-6)
    size = (6.6, 1.5 + 0.21 * len(wide))
    subtitle = (
        f"{label(arm)}: a column per run, by budget and within it by seed; "
        "1 is unedited, 0 removed, below inverted"
    )
    with style.grid("The scales after fine-tuning", subtitle, 1, 1, size) as (figure, [[axes]]):
        norm = Normalize(1 - reach, 1 + reach)
        image = axes.imshow(wide.to_numpy(), aspect="auto", cmap="PuOr", norm=norm)
        budgets = wide.columns.get_level_values("budget").to_numpy()
        for edge in np.flatnonzero(np.diff(budgets)) + 0.5:
            axes.axvline(edge, color="white", linewidth=2.5)
        middles = [float(np.flatnonzero(budgets == value).mean()) for value in np.unique(budgets)]
        axes.set_xticks(middles, [f"{value:,}" for value in np.unique(budgets)])
        axes.set_xlabel(f"budget [{style.target_name(frame)} training tokens]")
        axes.set_yticks(range(len(wide)), list(wide.index), fontsize=8)
        style.bare(axes)
        figure.colorbar(image, ax=axes, label="scale m (no unit)", extend="both", pad=0.02)
    return style.Drawing(figure, numbers)
