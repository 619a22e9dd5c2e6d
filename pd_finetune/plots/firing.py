"""What the selected subcomponents fire on: causal importance and firing by language, top tokens."""

from __future__ import annotations

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from pd_finetune.plots import style
from pd_finetune.results.firing import languages_of

_COLOURS = "Blues"
_WIDEST_TOKENS = 36  # letters of a column of tokens


def _heat(axes: Axes, values: pd.DataFrame, languages: list[str], title: str) -> None:
    norm, colours = Normalize(0.0, 1.0), colormaps[_COLOURS]
    array = values.to_numpy(dtype=float)
    axes.imshow(array, cmap=_COLOURS, norm=norm, aspect="auto")
    for y, row in enumerate(array):
        for x, value in enumerate(row):
            ink = style.contrast(colours(norm(value)))
            text = "0" if value < 0.005 else f"{value:.2f}".removeprefix("0")
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(languages)), languages)
    axes.xaxis.tick_top()
    axes.set_title(title, pad=18)
    style.bare(axes)


def _tokens(axes: Axes, texts: pd.Series, title: str) -> None:
    for y, text in enumerate(texts):
        cut = text if len(text) <= _WIDEST_TOKENS else text[: _WIDEST_TOKENS - 1] + "…"
        # a dollar sign would start a formula
        axes.text(0, y, cut.replace("$", r"\$"), va="center", fontsize=7.5)
    axes.set_title(title, pad=18)
    axes.set_xticks([])
    style.bare(axes)


def draw(numbers: pd.DataFrame) -> style.Drawing | None:
    """Two heat maps and two columns of tokens, a row per subcomponent; None without masks."""
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
    with style.grid(title, subtitle, 1, 4, size, **options) as (figure, [axes]):
        for panel, what, name in (
            (axes[0], "mean_ci", "mean causal importance"),
            (axes[1], "firing", "share of tokens where it fires"),
        ):
            _heat(panel, numbers[[f"{what}_{code}" for code in languages]], languages, name)
        _tokens(axes[2], numbers["tokens_in"], "fires on")
        _tokens(axes[3], numbers["tokens_out"], "and the model predicts there")
        first = numbers["place"] == 1
        names = [
            f"{arm}:  {key}" if start else key
            for arm, key, start in zip(numbers["arm"], numbers["key"], first, strict=True)
        ]
        axes[0].set_yticks(range(len(numbers)), names, fontsize=8)
        for row in numbers.index[first][1:]:
            for panel in axes[:2]:
                panel.axhline(row - 0.5, color="white", linewidth=4)
    return style.Drawing(figure, numbers)
