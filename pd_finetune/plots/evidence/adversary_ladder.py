"""KL against the fresh adversary's steps, between the maskings it is to be compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from pd_finetune.plots import style
from pd_finetune.plots.lines import label_ends

_LEVELS = {
    "zero": ("zero-masked", "#000000", "-"),
    "random": ("random masks", "#CC79A7", "-."),
    "ci_masked": ("CI-masked", "#009E73", "--"),
    "stochastic": ("stochastic", "#0072B2", ":"),
}
_ADVERSARY = style.Look("#D55E00", "o")


def table(record: dict[str, Any]) -> pd.DataFrame:
    """Mean, lowest and highest KL over restarts after each step, whether that is a rung."""
    traces = np.array(record["adversary"]["trace_nats"])
    rungs = {row["steps"] for row in record["adversary"]["rungs"]}
    steps = np.arange(traces.shape[1])
    return pd.DataFrame(
        {
            "steps": steps,
            "mean_nats": traces.mean(0),
            "lowest_nats": traces.min(0),
            "highest_nats": traces.max(0),
            "rung": [int(step) in rungs for step in steps],
        }
    )


def draw(record: dict[str, Any]) -> style.Drawing:
    """The climb with a band over its restarts and marks at the rungs; log KL."""
    numbers = table(record)
    restarts = record["adversary"]["restarts"]
    spread = f"mean of {restarts} random starts, band: lowest to highest"
    subtitle = f"{spread if restarts > 1 else 'one random start'}; all sites masked"
    with style.canvas("KL under a fresh adversary", subtitle, (6.6, 4.0)) as (figure, axes):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("sign steps of the adversary")
        axes.set_ylabel("KL(clean || masked) [nats per token]")
        axes.fill_between(
            numbers["steps"].to_numpy(),
            numbers["lowest_nats"].to_numpy(),
            numbers["highest_nats"].to_numpy(),
            color=_ADVERSARY.colour,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(
            numbers["steps"],
            numbers["mean_nats"],
            color=_ADVERSARY.colour,
            marker=_ADVERSARY.marker,
            markevery=numbers["rung"].to_numpy().nonzero()[0].tolist(),
            markersize=5,
            linewidth=1.8,
            clip_on=False,
        )
        last = numbers.iloc[-1]
        ends = {"adversary": (float(last["steps"]), float(last["mean_nats"]))}
        styles = {"adversary": _ADVERSARY}
        for name, (label, colour, dashes) in _LEVELS.items():
            nats = record["kl"][name]["nats"]
            if nats > 0:
                axes.axhline(nats, color=colour, linestyle=dashes, linewidth=1.2, zorder=1)
                ends[label], styles[label] = (float(last["steps"]), nats), style.Look(colour, "")
        axes.set_xlim(0, last["steps"])
        axes.set_xticks([row["steps"] for row in record["adversary"]["rungs"]])
        label_ends(axes, ends, styles)
    return style.Drawing(figure, numbers)
