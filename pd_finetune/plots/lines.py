"""Lines with their intervals as bands, each named at its right end, apart where they crowd."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots.style import Look


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places moved as little as needed so that neighbours are at least `gap` apart, within 0 to 1.

    Isotonic regression of the places less their distance, by pooling adjacent violators.
    """
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    blocks: list[tuple[float, int]] = []
    for wanted in np.asarray(places)[order] - steps:
        blocks.append((float(wanted), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (last, n), (before, m) = blocks.pop(), blocks.pop()
            blocks.append(((before * m + last * n) / (m + n), m + n))
    levels = np.repeat([level for level, _ in blocks], [count for _, count in blocks])
    found = np.empty(len(places))
    found[order] = levels.clip(0.0, max(1.0 - steps[-1], 0.0)) + steps
    return found.tolist()


def label_ends(axes: Axes, ends: dict[str, tuple[float, float]], styles: dict[str, Look]) -> None:
    """Name each line at its right end, beside the axes; set the limits of the axes before."""
    to_axes = axes.transData + axes.transAxes.inverted()  # linear and log scales alike
    places = spread([float(to_axes.transform(end)[1]) for end in ends.values()], gap=0.065)
    for (arm, end), place in zip(ends.items(), places, strict=True):
        axes.annotate(
            styles[arm].label,
            end,
            (1.04, place),
            textcoords="axes fraction",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": styles[arm].colour,
                "linewidth": 0.9,
                "linestyle": ":",  # so that it is not read as data
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def bands(axes: Axes, summary: pd.DataFrame, styles: dict[str, Look]) -> None:
    """Per arm a line through the medians and a band of the 95 % interval, against the budget."""
    last: dict[str, tuple[float, float]] = {}
    for arm, look in styles.items():
        own = summary[summary["arm"] == arm]
        low, high = own["median_low"].to_numpy(), own["median_high"].to_numpy()
        budgets = own["budget"].to_numpy()
        axes.fill_between(budgets, low, high, color=look.colour, alpha=0.18, linewidth=0)
        axes.plot(
            own["budget"],
            own["median"],
            color=look.colour,
            marker=look.marker,
            markersize=5,
            linewidth=1.8,
        )
        last[arm] = (float(budgets[-1]), float(own["median"].iloc[-1]))
    label_ends(axes, last, styles)
