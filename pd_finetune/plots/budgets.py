"""What changes with the budget: distance to chance, damage to the protected and to the others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.lines import bands
from pd_finetune.results.summary import measure
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

_RISE = "rise of cross-entropy"


def draw(frame: pd.DataFrame, summary: pd.DataFrame, name: str) -> style.Drawing | None:
    """Medians of a measure per arm with their 95 % bands; 0 and what counts as reached are marked.

    Args:
        name: to_chance_nats, protected_damage_nats or off_target_damage_nats.

    Returns:
        None where no run has the measure.
    """
    numbers = measure(summary, name)
    values = numbers[["median", "median_low", "median_high"]].to_numpy(dtype=np.float64)
    if np.isnan(values).all():
        return None
    target, protected = style.target_name(frame), style.protected_name(frame)
    title, unit, floor, level = {
        "to_chance_nats": (
            *(f"{target}: distance to chance", "chance minus cross-entropy"),
            *("chance", AT_CHANCE_NATS),
        ),
        "protected_damage_nats": (f"{protected}: damage", _RISE, "unedited", DAMAGE_NATS),
        "off_target_damage_nats": ("Other languages: damage", _RISE, "unedited", DAMAGE_NATS),
    }[name]
    subtitle = f"{style.runs_note('median', numbers['seeds'], 'band')}; dashed: {level} nats"
    with style.canvas(title, subtitle, (6.6, 4.0)) as (figure, axes):
        style.budget_axis(axes, numbers["budget"], target)
        axes.set_ylabel(f"{unit} [nats per token]")
        low, high = min(0.0, float(np.nanmin(values))), max(level, float(np.nanmax(values)))
        room = 0.08 * (high - low)
        axes.set_ylim(low - room, high + room)
        style.mark_level(axes, 0.0, floor, above=False)
        style.mark_level(axes, level, "", above=True, dashed=True)
        bands(axes, numbers, style.looks(frame))
    return style.Drawing(figure, numbers)
