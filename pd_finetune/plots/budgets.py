"""What grows with the budget: distance to chance, damage, and both for the appendix's arms."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.lines import bands
from pd_finetune.results.arms import label
from pd_finetune.results.claims import LOCALISED, LORA_R1, LORA_R4, ONE_SCALAR
from pd_finetune.results.summary import measure
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS


def _draw(
    frame: pd.DataFrame, numbers: pd.DataFrame, title: str, unit: str, floor: str, level: float
) -> style.Drawing:
    """Medians per arm with their 95 % bands, between 0 (named `floor`) and a dashed level."""
    subtitle = f"{style.runs_note('median', numbers['seeds'], 'band')}; dashed: {level} nats"
    with style.canvas(title, subtitle, (6.6, 4.0)) as (figure, axes):
        style.budget_axis(axes, numbers["budget"], style.target_name(frame))
        axes.set_ylabel(f"{unit} [nats per token]")
        values = numbers[["median", "median_low", "median_high"]].to_numpy(dtype=np.float64)
        low, high = min(0.0, float(np.nanmin(values))), max(level, float(np.nanmax(values)))
        room = 0.08 * (high - low)
        axes.set_ylim(low - room, high + room)
        style.mark_level(axes, 0.0, floor, above=False)
        style.mark_level(axes, level, "", above=True, dashed=True)
        bands(axes, numbers, style.looks(frame), ends=True)
    return style.Drawing(figure, numbers)


def to_chance(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing:
    """Median distance to chance per arm with its 95 % band; 0 is chance."""
    title, unit = f"{style.target_name(frame)}: distance to chance", "chance minus cross-entropy"
    numbers = measure(summary, "to_chance_nats")
    return _draw(frame, numbers, title, unit, "chance", AT_CHANCE_NATS)


def damage(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing:
    """Median damage to the protected per arm with its band, and what it should stay below."""
    title, unit = f"{style.protected_name(frame)}: damage", "rise of cross-entropy"
    numbers = measure(summary, "protected_damage_nats")
    return _draw(frame, numbers, title, unit, "unedited", DAMAGE_NATS)


def appendix(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing | None:
    """Gap, protected and off-target damage in rows; None without the arms of either column."""
    present = set(frame["arm"])
    columns = {
        "LoRA: rank 4 beside rank 1": (LORA_R1, LORA_R4),
        f"one matrix: LoRA beside the {label(ONE_SCALAR)}": (ONE_SCALAR, LOCALISED),
    }
    columns = {title: arms for title, arms in columns.items() if present >= set(arms)}
    if not columns:
        return None
    target, protected = style.target_name(frame), style.protected_name(frame)
    rows = {
        "to_chance_nats": (f"{target}\nto chance", AT_CHANCE_NATS),
        "protected_damage_nats": (f"damage,\n{protected}", DAMAGE_NATS),
        "off_target_damage_nats": ("damage, mean of\nother languages", DAMAGE_NATS),
    }
    shown = [arm for arms in columns.values() for arm in arms]
    numbers = summary[summary["measure"].isin(list(rows)) & summary["arm"].isin(shown)]
    runs = style.runs_note("median", numbers["seeds"], "band")
    subtitle = f"{runs}; nats per token; dashed: 0.1 nats"
    size = (1.2 + 3.7 * len(columns), 6.4)
    shared = {"sharex": True, "sharey": "row"}
    title = "Appendix: other LoRAs"
    with style.grid(title, subtitle, 3, len(columns), size, **shared) as (figure, axes):
        styles = style.looks(frame)
        for line, (name, (words, level)) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(words)
            for panel, arms in zip(line, columns.values(), strict=True):
                style.budget_axis(panel, frame["budget"], target)
                style.mark_level(panel, 0.0, "chance" if line is axes[0] else "", above=False)
                style.mark_level(panel, level, "", above=True, dashed=True)
                bands(panel, measure(numbers, name), {arm: styles[arm] for arm in arms})
                if line is not axes[-1]:
                    panel.set_xlabel("")
        named = {}
        for panel, title in zip(axes[0], columns, strict=True):
            panel.set_title(title)
            handles, names = panel.get_legend_handles_labels()
            named |= dict(zip(names, handles, strict=True))
        names = [look.label for look in styles.values() if look.label in named]
        handles = [named[name] for name in names]
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return style.Drawing(figure, numbers.reset_index(drop=True))
