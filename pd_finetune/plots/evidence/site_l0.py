"""CI-L0 of each site beside what it is to be far below: the matrix's rank and its C."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.evidence.sites import by_kind

_COLUMNS = ["C", "rank", "alive", "ci_l0", "ci_l0_above_0.1"]


def table(record: dict[str, Any]) -> pd.DataFrame:
    """site, C, rank, alive and CI-L0, kinds of matrices together."""
    rows = [
        (name, *(record["sites"][name][column] for column in _COLUMNS))
        for names in by_kind(record["sites"]).values()
        for name in names
    ]
    return pd.DataFrame(rows, columns=["site", *_COLUMNS])


def draw(record: dict[str, Any]) -> style.Drawing:
    """A bar per site from 0 to its CI-L0, which is written beside it; ranks and C are marked."""
    numbers = table(record)
    places = list(range(len(numbers)))[::-1]
    total = f"{record['ci_l0']:.0f} of {record['subcomponents']:,} over all sites"
    subtitle = f"mean number with importance > 0 per token; {total}"
    height = 1.4 + 0.19 * len(numbers)
    with style.canvas("CI-L0 by site", subtitle, (6.6, height)) as (figure, axes):
        axes.barh(places, numbers["ci_l0"].to_numpy(), color="#0072B2", height=0.72, zorder=2)
        for place, value in zip(places, numbers["ci_l0"], strict=True):
            axes.annotate(
                f"{value:.1f}",
                (value, place),
                (3, 0),
                textcoords="offset points",
                verticalalignment="center",
                fontsize=8,
            )
        for column, marker, colour in (("rank", "|", "#D55E00"), ("C", "d", style.MUTED)):
            axes.plot(
                numbers[column],
                places,
                color=colour,
                marker=marker,
                markersize=8 if marker == "|" else 4,
                markeredgewidth=2 if marker == "|" else 0,
                linestyle="none",
                label={"rank": "rank of the matrix", "C": "subcomponents C"}[column],
            )
        axes.set_yticks(places, numbers["site"].tolist(), fontsize=8)
        axes.set_ylim(-0.6, len(numbers) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.04 * max(numbers["C"].max(), numbers["rank"].max()))
        axes.set_xlabel("subcomponents per token")
        figure.legend(loc="outside lower left", ncols=2, fontsize=8.5)
    return style.Drawing(figure, numbers)
