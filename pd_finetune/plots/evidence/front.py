"""The front: sparsity against reconstruction, one point per minimality coefficient."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from pd_finetune.plots import style

SERIES = {  # by column
    "kl_stochastic": style.Look("stochastic", "#0072B2", "o"),
    "kl_ci_masked": style.Look("CI-masked", "#009E73", "D"),
    "kl_fresh_20": style.Look("fresh adversary, 20 steps", "#E69F00", "^"),
    "kl_fresh_80": style.Look("fresh adversary, 80 steps", "#D55E00", "s"),
}


def sparsity_axes(axes: Axes, kl: str) -> None:
    """CI-L0 against a KL (its name), both logarithmic, with plain numbers at the ticks."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        style.plain_log(axis, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    axes.set_xlabel("CI-L0 [subcomponents per token]")
    axes.set_ylabel(f"{kl} [nats per token]")


def draw(points: pd.DataFrame, chosen: float | None = None) -> style.Drawing:
    """CI-L0 against KL, both logarithmic; points are joined in the order of their coefficients.

    Args:
        points: a row per decomposition: `coefficient`, `ci_l0` and at least one column of `SERIES`.
        chosen: the coefficient to be marked.
    """
    numbers = points.sort_values("coefficient", ignore_index=True)
    series = {column: look for column, look in SERIES.items() if column in numbers}
    subtitle = "one decomposition per minimality coefficient (small print); lower left is better"
    with style.canvas("Sparsity against reconstruction", subtitle, (6.6, 4.4)) as (figure, axes):
        sparsity_axes(axes, "KL(clean || masked)")
        for column, look in series.items():
            axes.plot(
                numbers["ci_l0"],
                numbers[column],
                color=look.colour,
                marker=look.marker,
                markersize=5,
                linewidth=1.4,
                label=look.label,
            )
        lowest = str(numbers[list(series)].min().idxmin())
        below = {"fontsize": 7.5, "horizontalalignment": "center", "verticalalignment": "top"}
        for coefficient, l0, kl in numbers[["coefficient", "ci_l0", lowest]].to_numpy():
            bold = {"color": style.INK, "fontweight": "bold"} if coefficient == chosen else {}
            style.note(axes, f"{coefficient:g}", (l0, kl), (0, -9), **below, **bold)
        axes.margins(0.08, 0.14)
        for l0 in numbers.loc[numbers["coefficient"] == chosen, "ci_l0"]:
            axes.axvline(l0, color=style.MUTED, linewidth=0.8, linestyle="--", zorder=1)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
    return style.Drawing(figure, numbers)
