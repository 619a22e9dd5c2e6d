"""Training curves of one or several decompositions: have they flattened?"""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd

from pd_finetune.plots import style

PANELS = {
    "ci_l0": "CI-L0 [per token]",
    "stochastic_kl_nats": "KL stochastic rows [nats]",
    "adversarial_kl_nats": "KL adversarial rows [nats]",
}


def draw(curves: pd.DataFrame, by: str) -> style.Drawing:
    """Each value against training steps, a line per decomposition.

    Args:
        curves: a row per decomposition and logged step: `by`, `step`, the columns of `PANELS`
            (means over the steps since the row before).
        by: the column that tells the decompositions apart, the darkest colour for its lowest value.
    """
    names = sorted(set(curves[by]))
    shown = {column: label for column, label in PANELS.items() if column in curves}
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(names)))
    subtitle = f"means over logged windows of training steps; colour: {by.replace('_', ' ')}"
    size = (9.6, 3.4)
    with style.grid("Training curves", subtitle, 1, len(shown), size) as (figure, axes):
        for panel, (column, label) in zip(axes[0], shown.items(), strict=True):
            panel.set_title(label)
            panel.set_xlabel("step")
            panel.set_yscale("log")
            style.plain_log(panel.yaxis, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
            for name, colour in zip(names, colours, strict=True):
                own = curves[curves[by] == name]
                own_label = f"{name:g}" if isinstance(name, float) else str(name)
                panel.plot(own["step"], own[column], color=colour, linewidth=1.4, label=own_label)
        axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return style.Drawing(figure, curves)
