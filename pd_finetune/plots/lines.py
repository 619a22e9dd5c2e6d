"""Lines with their intervals as bands, each named at its right end, apart where they crowd."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots.style import Look


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places moved as little as needed so that neighbours are at least `gap` apart, within 0 to 1.

    Places that crowd form a block around their mean; blocks that then touch are merged.
    """
    order = np.argsort(places, kind="stable")
    blocks: list[list[int]] = []
    starts: list[float] = []

    def start_of(block: list[int]) -> float:
        wanted = float(np.mean([places[i] - gap * n for n, i in enumerate(block)]))
        return max(0.0, min(wanted, 1.0 - gap * (len(block) - 1)))

    for index in order:
        blocks.append([int(index)])
        starts.append(start_of(blocks[-1]))
        while len(blocks) > 1 and starts[-1] < starts[-2] + gap * len(blocks[-2]):
            last = blocks.pop()
            starts.pop()
            blocks[-1] += last
            starts[-1] = start_of(blocks[-1])
    found = [0.0] * len(places)
    for block, start in zip(blocks, starts, strict=True):
        for n, index in enumerate(block):
            found[index] = start + gap * n
    return found


def label_ends(axes: Axes, ends: dict[str, tuple[float, float]], styles: dict[str, Look]) -> None:
    """Name each line at its right end, beside the axes; set the limits of the axes before."""
    to_axes = axes.transData + axes.transAxes.inverted()  # linear and log scales alike
    places = spread([float(to_axes.transform(end)[1]) for end in ends.values()], gap=0.065)
    for (arm, end), place in zip(ends.items(), places, strict=True):
        axes.annotate(
            arm,
            end,
            (1.04, place),
            xycoords="data",
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
    for arm, look in styles.items():
        own = summary[summary["arm"] == arm]
        axes.fill_between(
            own["budget"].to_numpy(),
            own["median_low"].to_numpy(),
            own["median_high"].to_numpy(),
            color=look.colour,
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(
            own["budget"],
            own["median"],
            color=look.colour,
            marker=look.marker,
            markersize=5,
            linewidth=1.8,
            label=arm,
        )


def band_lines(axes: Axes, summary: pd.DataFrame, styles: dict[str, Look]) -> None:
    """`bands`, each named at its right end."""
    bands(axes, summary, styles)
    ends = {}
    for arm in styles:
        last = summary[summary["arm"] == arm].iloc[-1]
        ends[arm] = (float(last["budget"]), float(last["median"]))
    label_ends(axes, ends, styles)
