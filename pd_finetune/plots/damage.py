"""How much the protected language loses, against the budget."""

from __future__ import annotations

import pandas as pd

from pd_finetune.plots import lines, style
from pd_finetune.results.summary import measure
from pd_finetune.results.table import DAMAGE_NATS


def draw(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing:
    """Median English damage per arm with its 95 % band, and the 0.10 nats it should stay below."""
    numbers = measure(summary, "protected_damage_nats")
    name = style.protected_name(frame)
    subtitle = style.runs_note("median", numbers["seeds"], "band")
    subtitle += f"; dashed: {DAMAGE_NATS:.2f} nats"
    with style.canvas(f"{name}: damage", subtitle, (6.6, 4.0)) as (figure, axes):
        style.budget_axis(axes, numbers["budget"], style.target_name(frame))
        axes.set_ylabel("rise of cross-entropy [nats per token]")
        low, high = style.extent(numbers, "median", "median_low", "median_high")
        low, high = min(0.0, low), max(DAMAGE_NATS, high)
        room = 0.08 * (high - low)
        axes.set_ylim(low - room, high + room)
        style.mark_level(axes, 0.0, "unedited", above=False)
        style.mark_level(axes, DAMAGE_NATS, "", above=True, dashed=True)
        lines.band_lines(axes, numbers, style.looks(frame))
    return style.Drawing(figure, numbers)
