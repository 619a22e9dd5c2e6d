"""The spectrum of mean causal importance: whether alive and dead are told apart by an edge."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.evidence.sites import by_kind, layer_and_kind, layer_colours, layer_legend


def table(record: dict[str, Any]) -> pd.DataFrame:
    """site, rank (1: the highest) and mean CI of every subcomponent."""
    rows = [
        (name, place, value)
        for name, site in record["sites"].items()
        for place, value in enumerate(site["mean_ci"], 1)
    ]
    return pd.DataFrame(rows, columns=["site", "place", "mean_ci"])


def draw(record: dict[str, Any]) -> style.Drawing:
    """Mean CI, sorted, on a log axis; subcomponents at exactly 0 have no place on it."""
    numbers = table(record)
    threshold = record["thresholds"]["alive_mean_ci"]
    kinds, colours = by_kind(record["sites"]), layer_colours(record["sites"])
    subtitle = f"mean over {record['tokens']:,} held-out tokens; dashed: alive above {threshold:g}"
    with style.panels("Mean causal importance, sorted", subtitle, len(kinds)) as (figure, panels):
        for axes, (kind, names) in zip(panels, kinds.items(), strict=True):
            axes.set_title(kind)
            axes.set_yscale("log")
            axes.set_ylim(threshold / 5, 2)
            axes.axhline(threshold, color=style.MUTED, linewidth=0.8, linestyle="--")
            for name in names:
                own = numbers[(numbers["site"] == name) & (numbers["mean_ci"] > 0)]
                axes.plot(
                    own["place"],
                    own["mean_ci"],
                    color=colours[layer_and_kind(name)[0]],
                    linewidth=1.6,
                )
        figure.supxlabel("subcomponents of a site, the most important first", fontsize=9.5)
        figure.supylabel("mean causal importance (no unit)", fontsize=9.5)
        layer_legend(figure, colours)
    return style.Drawing(figure, numbers)
