"""What the selected subcomponents fire on: causal importance and firing by language, top tokens."""

from __future__ import annotations

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from pd_finetune.plots import style
from pd_finetune.results.arms import label
from pd_finetune.results.firing import languages_of

_COLOURS = "Blues"
_WIDEST_TOKENS = 36  # letters of a column of tokens


def _heat(axes: Axes, values: pd.DataFrame) -> None:
    array = values.to_numpy(dtype=float)
    axes.imshow(array, cmap=_COLOURS, vmin=0.0, vmax=1.0, aspect="auto")
    for y, row in enumerate(array):
        for x, value in enumerate(row):
            ink = style.contrast(colormaps[_COLOURS](float(value)))
            text = "0" if value < 0.005 else f"{value:.2f}".removeprefix("0")
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
    axes.xaxis.tick_top()


def _tokens(axes: Axes, texts: pd.Series) -> None:
    for y, text in enumerate(texts):
        cut = text if len(text) <= _WIDEST_TOKENS else text[: _WIDEST_TOKENS - 1] + "…"
        # a dollar sign would start a formula
        axes.text(0, y, cut.replace("$", r"\$"), va="center", fontsize=7.5)
    axes.set_xticks([])


def draw(numbers: pd.DataFrame) -> style.Drawing | None:
    """Two heat maps and two columns of tokens, a row per subcomponent; None without any."""
    if numbers.empty:
        return None
    languages = languages_of(numbers)
    width = 0.34 * len(languages)
    size = (2.6 + 2 * width + 3.8, 1.5 + 0.24 * len(numbers))
    ratios = {"width_ratios": [width, width, 1.9, 1.9]}
    subtitle = (
        "from the harvest, before any edit; firing: causal importance above 0; tokens: "
        "those of most weight"
    )
    title = "What the selected subcomponents fire on"
    options = {"sharey": True, "gridspec_kw": ratios}
    heat = {"mean_ci": "mean causal importance", "firing": "share of tokens where it fires"}
    texts = {"tokens_in": "fires on", "tokens_out": "and the model predicts there"}
    with style.grid(title, subtitle, 1, 4, size, **options) as (figure, [axes]):
        for panel, (what, name) in zip(axes, (heat | texts).items(), strict=True):
            if what in heat:
                _heat(panel, numbers[[f"{what}_{code}" for code in languages]])
                panel.set_xticks(range(len(languages)), languages)
            else:
                _tokens(panel, numbers[what])
            panel.set_title(name, pad=18)
            style.bare(panel)
        first = numbers["place"] == 1
        names = [
            f"{label(arm)}:  {key}" if start else key
            for arm, key, start in zip(numbers["arm"], numbers["key"], first, strict=True)
        ]
        axes[0].set_yticks(range(len(numbers)), names, fontsize=8)
        for row in numbers.index[first][1:]:
            for panel in axes[:2]:
                panel.axhline(row - 0.5, color="white", linewidth=4)
    return style.Drawing(figure, numbers)
