"""Cross-entropy of every slice against the scale of one piece."""

from __future__ import annotations

import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.lines import label_ends

_COLOURS = ("#D55E00", "#000000", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(curves: pd.DataFrame, name: str, language: str) -> style.Drawing:
    """Changes over the scale, which falls to the right; symmetric logarithm, linear below 0.1.

    Args:
        curves: `scale`, `language`, `change_nats`; the target language's rows first.
    """
    title = f"{style.language_name(language)} by one scalar"
    with style.canvas(title, f"{name}; nothing trained", (6.6, 4.0)) as (figure, axes):
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_xlabel("scale of the piece")
        axes.set_ylabel("change of cross-entropy [nats per token]")
        axes.invert_xaxis()
        axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=1)
        ends, looks = {}, {}
        for number, (code, rows) in enumerate(curves.groupby("language", sort=False)):
            look = style.Look(_COLOURS[number % len(_COLOURS)], "o")
            axes.plot(rows["scale"], rows["change_nats"], color=look.colour, marker="o", ms=3)
            label = style.language_name(str(code))
            ends[label] = (rows["scale"].iloc[-1], rows["change_nats"].iloc[-1])
            looks[label] = look
        label_ends(axes, ends, looks)
    return style.Drawing(figure, curves)
