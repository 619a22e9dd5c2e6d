"""The arms of the comparison: which one a run belongs to, and their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pd_finetune.records.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

ONE_SCALAR, TOP_16, LORA_R1, LORA_R4, LOCALISED = (
    "one scalar",
    "top 16",
    "LoRA r1",
    "LoRA r4",
    "localised LoRA",
)
MASKS, LORAS = (ONE_SCALAR, TOP_16), (LORA_R1, LORA_R4, LOCALISED)
ARMS = (*MASKS, *LORAS)  # in the order of tables


def _selection_name(record: RunRecord) -> str:
    """How the subcomponents were chosen: label, top 16, random, a key, or keys."""
    target = str(record.config.get("selection", {}).get("_target_", ""))
    kind = target.rpartition(".")[2].removeprefix("select_")
    if kind == "top":
        return f"top {len(record.selection)}"
    return record.selection[0] if kind == "keys" and len(record.selection) == 1 else kind


def arm_name(record: RunRecord) -> str:
    """The arm of the comparison that a run belongs to, from its method and selection."""
    chosen = _selection_name(record)
    if "rank" in record.edit:
        rank = record.edit["rank"]
        if record.edit["where"] == "all":
            return f"LoRA r{rank}"
        name = "localised LoRA" if rank == 1 else f"localised LoRA r{rank}"
        return name if chosen == "label" else f"{name} ({chosen})"
    count = len(record.masks)
    if count == 0:
        return record.method
    if chosen.startswith("top"):
        return chosen
    if count == 1:
        return "one scalar" if chosen == "label" else f"one scalar ({chosen})"
    return f"{count} subcomponents ({chosen})"


def arms_of(frame: pd.DataFrame) -> list[str]:
    """The arms in a frame: the write-up's first, in the order of `ARMS`, then others by name."""
    present = set(frame["arm"])
    return [arm for arm in ARMS if arm in present] + sorted(present - set(ARMS))
