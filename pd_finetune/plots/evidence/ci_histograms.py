"""Histograms of causal importances: all tokens and subcomponents of a site."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.evidence.sites import by_kind, layer_and_kind, layer_colours, layer_legend

_END = 0.035  # distance of the marks of exactly 0 and exactly 1 from the bins


def table(record: dict[str, Any]) -> pd.DataFrame:
    """site, range of importances (`low` = `high`: exactly that), count and share of values."""
    rows = []
    for name, site in record["sites"].items():
        found = site["ci_histogram"]
        bins = len(found["inside"])
        edges = np.linspace(0, 1, bins + 1)
        counted = [(0.0, 0.0, found["zero"])]
        counted += list(zip(edges[:-1], edges[1:], found["inside"], strict=True))
        counted += [(1.0, 1.0, found["one"])]
        total = sum(count for _, _, count in counted)
        rows += [(name, low, high, count, count / total) for low, high, count in counted]
    return pd.DataFrame(rows, columns=["site", "low", "high", "count", "share"])


def draw(record: dict[str, Any]) -> style.Drawing:
    """Steps for the values between, dots for those at exactly 0 and 1; shares on a log axis."""
    numbers = table(record)
    kinds, colours = by_kind(record["sites"]), layer_colours(record["sites"])
    subtitle = (
        f"share of all values ({record['tokens']:,} tokens × C); dots: exactly 0 and exactly 1"
    )
    with style.panels("Causal importances", subtitle, len(kinds)) as (figure, panels):
        for axes, (kind, names) in zip(panels, kinds.items(), strict=True):
            axes.set_title(kind)
            axes.set_yscale("log")
            for name in names:
                own = numbers[(numbers["site"] == name) & (numbers["count"] > 0)]
                colour = colours[layer_and_kind(name)[0]]
                ends, inside = own[own["low"] == own["high"]], own[own["low"] < own["high"]]
                axes.hlines(inside["share"], inside["low"], inside["high"], colour, linewidth=1.6)
                axes.plot(
                    ends["low"] + np.where(ends["low"] > 0, _END, -_END),
                    ends["share"],
                    color=colour,
                    marker="o",
                    markersize=4,
                    linestyle="none",
                )
        panels[0].set_xticks([0.0, 0.5, 1.0])
        figure.supxlabel("causal importance (no unit)", fontsize=9.5)
        figure.supylabel("share of values (no unit)", fontsize=9.5)
        layer_legend(figure, colours)
    return style.Drawing(figure, numbers)
