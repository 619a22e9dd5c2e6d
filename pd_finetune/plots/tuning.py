"""All tuning trials: a heat map per arm and budget over learning rate and KL weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from pd_finetune.plots import style
from pd_finetune.results.arms import arms_of
from pd_finetune.results.tuning import ALSO, cells, used_settings, usual_third

_COLOURS = "cividis_r"  # ordered in lightness too, so that it survives a grey print


def _panel(axes: Axes, own: pd.DataFrame, norm: Normalize, used: dict[str, float]) -> None:
    rates, weights = (sorted(own[name].unique()) for name in ("lr", "kl_weight"))
    colours = colormaps[_COLOURS]
    image = np.full((len(weights), len(rates)), np.nan)
    row: Any
    for row in own.itertuples():
        x, y = rates.index(row.lr), weights.index(row.kl_weight)
        image[y, x] = row.score
        text = f"{row.to_chance_nats:.2f}\n{row.english_damage_nats:+.2f}".replace("-", "−")
        ink = style.contrast(colours(norm(row.score)))
        axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=ink, linespacing=1.0)
    axes.imshow(image, cmap=_COLOURS, norm=norm, aspect="auto", origin="lower")
    if used.get("lr") in rates and used.get("kl_weight") in weights:
        corner = (rates.index(used["lr"]) - 0.5, weights.index(used["kl_weight"]) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.2))
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=7.5)
    axes.set_yticks(range(len(weights)), [f"{weight:g}" for weight in weights], fontsize=7.5)
    style.bare(axes)


def _beside(axes: Axes, own: pd.DataFrame, used: dict[str, float]) -> None:
    """What other values of a third setting scored, in words above the panel."""
    third = {f"{name}={value}" for name, value in used.items()}
    words = [
        f"{row[ALSO]}: {row['score']:.2f}{' (used)' if row[ALSO] in third else ''}"
        for _, row in own.iterrows()
    ]
    text = ", ".join(words).replace("-", "−")
    axes.set_title(text, loc="right", fontsize=6.5, color=style.MUTED, pad=2)


def draw(frame: pd.DataFrame, trials: pd.DataFrame) -> style.Drawing | None:
    """Arms in rows, budgets in columns; dark is bad, the setting of the reported runs is framed."""
    if trials.empty:
        return None
    numbers = cells(trials)
    arms = arms_of(numbers["arm"])
    usual = {arm: usual_third(trials, arm) for arm in arms}
    budgets = sorted(int(value) for value in numbers["budget"].unique())
    nothing = float(frame["chance_nats"].iloc[0] - frame["base_target_ce_nats"].iloc[0])
    norm = Normalize(0.0, nothing)
    widest = max(numbers[numbers["arm"] == arm]["lr"].nunique() for arm in arms)
    size = (1.6 + len(budgets) * max(2.2, 0.4 + 0.4 * widest), 1.4 + 1.7 * len(arms))
    target, protected = style.target_name(frame), style.protected_name(frame)
    subtitle = (
        f"validation text, means over samples; in each cell {target} to chance and, below, "
        f"{protected} damage (nats per token);\nframed: the setting of the reported runs; "
        "colour: nats short of chance + 10 × damage over 0.10,\n"
        "by which settings were chosen; darkest: no better than no edit. "
        f"Cells: {', '.join(f'{arms[name].label} {also}' for name, also in usual.items())};\n"
        "above a panel: scores of other values, at the best cell"
    )
    with style.grid("Tuning trials", subtitle, len(arms), len(budgets), size) as (figure, axes):
        for line, arm in zip(axes, arms, strict=True):
            for panel, budget in zip(line, budgets, strict=True):
                own = numbers[(numbers["arm"] == arm) & (numbers["budget"] == budget)]
                if own.empty:
                    panel.set_visible(False)
                    continue
                other, used = own[ALSO] != usual[arm], used_settings(frame, arm, budget)
                _panel(panel, own[~other], norm, used)
                _beside(panel, own[other], used)
                if line is axes[0]:
                    panel.set_title(style.tokens(budget))
                if line is axes[-1]:
                    panel.set_xlabel("learning rate")
            line[0].set_ylabel(f"{arms[arm].label}\nKL weight")
        figure.colorbar(
            ScalarMappable(norm, _COLOURS),
            ax=[panel for line in axes for panel in line],
            label="score [nats]",
            extend="max",
            pad=0.01,
            fraction=0.03,
        )
    return style.Drawing(figure, numbers)
