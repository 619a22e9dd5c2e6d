"""How far the target language is from chance, against the budget."""

from __future__ import annotations

import pandas as pd

from pd_finetune.plots import lines, style
from pd_finetune.results.summary import measure
from pd_finetune.results.table import AT_CHANCE_NATS


def draw(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing:
    """Median German-to-chance per arm with its 95 % band; 0 is chance."""
    numbers = measure(summary, "to_chance_nats")
    language = style.target_name(frame)
    subtitle = style.runs_note("median", numbers["seeds"], "band")
    subtitle += f"; dashed: {AT_CHANCE_NATS} nats"
    with style.canvas(f"{language}: distance to chance", subtitle, (6.6, 4.0)) as (figure, axes):
        style.budget_axis(axes, numbers["budget"], language)
        axes.set_ylabel("chance minus cross-entropy [nats per token]")
        low, high = style.extent(numbers, "median", "median_low", "median_high")
        low, high = min(0.0, low), max(AT_CHANCE_NATS, high)
        room = 0.08 * (high - low)
        axes.set_ylim(low - room, high + room)
        style.mark_level(axes, 0.0, "chance", above=False)
        style.mark_level(axes, AT_CHANCE_NATS, "", above=True, dashed=True)
        lines.band_lines(axes, numbers, style.looks(frame))
    return style.Drawing(figure, numbers)
