"""How alike the subcomponents of two decompositions are, beside what chance gives."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pd_finetune.plots import style

_BINS = np.linspace(0.0, 1.0, 41)
_FOUND, _CONTROL, _LANGUAGE = "#0072B2", "#999999", "#D55E00"


def draw(matched: pd.DataFrame, language: str) -> style.Drawing:
    """Histograms of the best cosine and of its control; the language's own ones as marks.

    Args:
        matched: rows of `evidence.stability.matches`, with `exclusive`, the one language that a
            subcomponent fires for, or "".
        language: the code of the language whose subcomponents are marked.
    """
    name = style.language_name(language)
    own = matched[matched["exclusive"] == language]
    subtitle = (
        f"{len(matched):,} subcomponents, each with its best match at the same site; "
        "chance: U dealt anew"
    )
    with style.canvas("The same subcomponents?", subtitle, (6.6, 3.8)) as (figure, axes):
        for column, colour, label in (
            ("control_cosine", _CONTROL, "chance"),
            ("cosine", _FOUND, "best match"),
        ):
            values = matched[column].clip(0, 1)
            axes.hist(values, bins=_BINS.tolist(), color=colour, alpha=0.55, label=label)
        top = axes.get_ylim()[1]
        axes.plot(
            own["cosine"].clip(0, 1),
            np.full(len(own), 0.96 * top),
            "v",
            color=_LANGUAGE,
            markersize=5,
            alpha=0.7,
            linestyle="none",
            label=f"{name} alone ({len(own)})",
        )
        axes.set_xlim(0, 1)
        axes.set_xlabel("cosine of rank-1 matrices (no unit)")
        axes.set_ylabel("subcomponents")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
    return style.Drawing(figure, matched)
