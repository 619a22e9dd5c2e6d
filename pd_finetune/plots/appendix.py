"""Rank 4 beside rank 1, and LoRA on the one matrix beside the one scalar: the appendix."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pd_finetune.plots import style
from pd_finetune.plots.lines import bands
from pd_finetune.results.arms import LOCALISED, LORA_R1, LORA_R4, ONE_SCALAR
from pd_finetune.results.summary import measure
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

_COLUMNS = (
    ("LoRA: rank 4 beside rank 1", (LORA_R1, LORA_R4)),
    ("one matrix: LoRA beside the one scalar", (ONE_SCALAR, LOCALISED)),
)


def draw(frame: pd.DataFrame, summary: pd.DataFrame) -> style.Drawing | None:
    """Gap, protected and off-target damage in rows; None without rank-4 and localised runs."""
    present = set(frame["arm"])
    columns = [(title, arms) for title, arms in _COLUMNS if present >= set(arms)]
    if not columns:
        return None
    target, protected = style.target_name(frame), style.protected_name(frame)
    rows = {
        "to_chance_nats": (f"{target}\nto chance", AT_CHANCE_NATS),
        "protected_damage_nats": (f"damage,\n{protected}", DAMAGE_NATS),
        "off_target_damage_nats": ("damage, mean of\nother languages", DAMAGE_NATS),
    }
    shown = [arm for _, arms in columns for arm in arms]
    numbers = summary[summary["measure"].isin(list(rows)) & summary["arm"].isin(shown)]
    styles = style.looks(frame)
    subtitle = (
        f"{style.runs_note('median', numbers['seeds'], 'band')}; nats per token; dashed: 0.1 nats"
    )
    size = (1.2 + 3.7 * len(columns), 6.4)
    shared = {"sharex": True, "sharey": "row"}
    with style.grid("Appendix: other LoRAs", subtitle, 3, len(columns), size, **shared) as (
        figure,
        axes,
    ):
        for row, (name, (label, level)) in enumerate(rows.items()):
            own = measure(numbers, name)
            for column, (title, arms) in enumerate(columns):
                panel = axes[row][column]
                looks = {arm: styles[arm] for arm in arms}
                style.budget_axis(panel, frame["budget"], target)
                style.mark_level(panel, 0.0, "chance" if row == 0 else "", above=False)
                style.mark_level(panel, level, "", above=True, dashed=True)
                bands(panel, own, looks)
                if row == 0:
                    panel.set_title(title)
                if row < len(rows) - 1:
                    panel.set_xlabel("")
                if column == 0:
                    panel.set_ylabel(label)
        for_legend: dict[str, Any] = {}
        for panel in axes[0]:
            lines, names = panel.get_legend_handles_labels()
            for_legend |= dict(zip(names, lines, strict=True))
        names = [arm for arm in styles if arm in for_legend]
        handles = [for_legend[arm] for arm in names]
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return style.Drawing(figure, numbers.reset_index(drop=True))
