"""The front: sparsity against reconstruction, one point per minimality coefficient."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from pd_finetune.plots import style

# column -> name in the legend, look
SERIES = {
    "kl_stochastic": ("stochastic", style.Look("#0072B2", "o")),
    "kl_ci_masked": ("CI-masked", style.Look("#009E73", "D")),
    "kl_fresh_20": ("fresh adversary, 20 steps", style.Look("#E69F00", "^")),
    "kl_fresh_80": ("fresh adversary, 80 steps", style.Look("#D55E00", "s")),
}


def sparsity_axes(axes: Axes) -> None:
    """CI-L0 against a KL, both logarithmic, with plain numbers at the ticks."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("CI-L0 [subcomponents per token]")


def draw(points: pd.DataFrame, chosen: float | None = None) -> style.Drawing:
    """CI-L0 against KL, both logarithmic; points are joined in the order of their coefficients.

    Args:
        points: a row per decomposition: `coefficient`, `ci_l0` and the columns of `SERIES`.
        chosen: the coefficient to be marked.
    """
    numbers = points.sort_values("coefficient", ignore_index=True)
    series = {column: how for column, how in SERIES.items() if column in numbers}
    subtitle = "one decomposition per minimality coefficient (small print); lower left is better"
    with style.canvas("Sparsity against reconstruction", subtitle, (6.6, 4.4)) as (figure, axes):
        sparsity_axes(axes)
        axes.set_ylabel("KL(clean || masked) [nats per token]")
        for column, (name, look) in series.items():
            axes.plot(
                numbers["ci_l0"],
                numbers[column],
                color=look.colour,
                marker=look.marker,
                markersize=5,
                linewidth=1.4,
                label=name,
            )
        lowest = str(numbers[list(series)].min().idxmin())
        for coefficient, l0, kl in numbers[["coefficient", "ci_l0", lowest]].to_numpy():
            axes.annotate(
                f"{coefficient:g}",
                (l0, kl),
                (0, -9),
                textcoords="offset points",
                fontsize=7.5,
                color=style.INK if coefficient == chosen else style.MUTED,
                fontweight="bold" if coefficient == chosen else "normal",
                horizontalalignment="center",
                verticalalignment="top",
            )
        axes.margins(0.08, 0.14)
        if chosen is not None and (numbers["coefficient"] == chosen).any():
            at = float(numbers.loc[numbers["coefficient"] == chosen, "ci_l0"].iloc[0])
            axes.axvline(at, color=style.MUTED, linewidth=0.8, linestyle="--", zorder=1)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
    return style.Drawing(figure, numbers)
