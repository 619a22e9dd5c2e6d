"""The price of chance by one scale, of every candidate of several bases."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots import style
from pd_finetune.results.table import DAMAGE_NATS

_COLOURS = ("#0072B2", "#009E73", "#56B4E9", "#CC79A7", "#999999")  # by kind of group
_SELECTED = "#D55E00"
_LEAST = 5e-3  # of damage on the axis, in nats; less is drawn there


def draw(prices: dict[str, pd.DataFrame], language: str, protected: str) -> style.Drawing:
    """A strip per group of candidates; how many reach chance at all stands beside it.

    Args:
        prices: by group, a row per candidate: `key`, `damage_nats` (nan: not at chance),
            `selected`.
        language, protected: codes of the target language and the protected one.
    """
    numbers = pd.concat(prices.values(), ignore_index=True)
    groups = list(prices)
    target, name = style.language_name(language), style.language_name(protected)
    kinds = list(dict.fromkeys(_kind(group) for group in groups))
    subtitle = f"one scalar each, turned until {target} is at chance; star: the label rule's choice"
    size = (7.6, 0.42 * len(groups) + 1.6)
    with style.canvas("The price of chance", subtitle, size) as (figure, axes):
        axes.set_xscale("log")
        known = numbers["damage_nats"].clip(lower=_LEAST).dropna().tolist() + [DAMAGE_NATS]
        axes.set_xlim(min(known) / 1.5, max(known) * 1.5)
        axes.axvline(DAMAGE_NATS, color=style.MUTED, linewidth=0.8, linestyle="--", zorder=1)
        for place, (group, rows) in enumerate(prices.items()):
            there = rows["damage_nats"].clip(lower=_LEAST).dropna()
            # spread by rank, so that the same numbers give the same picture
            heights = place + ((there.rank(method="first").to_numpy() * 0.618) % 1 - 0.5) * 0.5
            colour = _COLOURS[kinds.index(_kind(group)) % len(_COLOURS)]
            axes.scatter(there, heights, s=14, color=colour, alpha=0.75, linewidths=0)
            chosen = rows["selected"][there.index].to_numpy(dtype=bool)
            star: Any = {"s": 70, "marker": "*", "color": _SELECTED, "zorder": 3}
            axes.scatter(there[chosen], heights[chosen], **star)
            _beside(axes, place, f"{len(there)} of {len(rows)}")
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -1.0)
        style.plain_log(axes.xaxis, 1.0, 2.0, 5.0)
        axes.set_xlabel(f"{name} damage where {target} is at chance [nats per token]")
        _beside(axes, -0.75, "reach chance")
    return style.Drawing(figure, numbers)


def _beside(axes: Axes, height: float, text: str) -> None:
    """Words to the right of the axes, at a height of its data."""
    place = {"xycoords": ("axes fraction", "data"), "verticalalignment": "center"}
    style.note(axes, text, (1, height), (6, 0), **place)


def _kind(group: str) -> str:
    """`any` of `embedded_seed1, any`."""
    return group.rsplit(", ", 1)[-1]
