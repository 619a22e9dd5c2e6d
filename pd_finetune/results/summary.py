"""From result records to tables: one row a run, then one row per arm, budget and measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pd_finetune.config import band
from pd_finetune.errors import UserError
from pd_finetune.files import write_text
from pd_finetune.results.record import RunRecord
from pd_finetune.results.rundir import relevant_config
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS

ARMS = ("one scalar", "top 16", "LoRA r1", "LoRA r4", "localised LoRA")  # in the order of tables
_CRITERIA = ("to_chance_nats", "protected_damage_nats")
RESAMPLES, INTERVAL_PERCENT = 10_000, (2.5, 97.5)

# of the config, but decided by hashes or without effect on what an arm finds
_NOT_COMPARED = (
    "budget",
    "seed",
    "model.folder",
    "decomposition.folder",
    "languages.source",
    "token_budget.grid",
    "evaluation",  # what matters of it is compared between all runs
    "method.tuning_tokens",
)

_TUNED = ("method.lr", "method.kl_weight", "objective.kl_weight")


# ------------------------------------------------------------------ arms, and what may be pooled


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
    if record.lora is not None:
        rank = record.lora["rank"]
        if record.lora["where"] == "all":
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


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = str(value)
    return flat


def _shared_facts(record: RunRecord) -> dict[str, str]:
    """What all runs of one table must have in common."""
    budget, evaluation = (record.config.get(name, {}) for name in ("token_budget", "evaluation"))
    return _flat(
        {
            "languages.target": record.target_language,
            "languages.preserve": record.protected_languages,
            "hashes.target": record.hashes.target[:12],
            "hashes.decomposition": record.hashes.decomposition[:12],
            "hashes.text": {name: value[:12] for name, value in record.hashes.text.items()},
            "evaluation": {
                name: evaluation.get(name) for name in ("split", "rows", "window", "out_of_domain")
            },
            "token_budget": {
                name: budget.get(name) for name in ("sequence_tokens", "min_paragraph_tokens")
            },
        }
    )


def _as_tuned(record: RunRecord) -> bool:
    """Whether rate and KL weight are those of the budget's band, which the config carries."""
    method = record.config.get("method", {})
    bands = {int(key): value for key, value in (method.get("bands") or {}).items()}
    return bool(bands) and all(
        method.get(name) == value for name, value in band(bands, record.budget).items()
    )


def _arm_facts(record: RunRecord) -> dict[str, str]:
    """What all runs of one arm must have in common: its config but for budget and seed."""
    everywhere = record.lora is not None and record.lora["where"] == "all"
    left_out = (
        *_NOT_COMPARED,
        *(["selection"] if everywhere else []),
        *(_TUNED if _as_tuned(record) else []),
    )
    return {
        key: value
        for key, value in _flat(relevant_config(record.config)).items()
        if not any(key == name or key.startswith(f"{name}.") for name in left_out)
    }


def _refuse_differences(
    records: Sequence[RunRecord], facts: Callable[[RunRecord], dict[str, str]], whose: str
) -> None:
    found = [facts(record) for record in records]
    differing = []
    for key in sorted(set().union(*found)):
        values = [fact.get(key, "absent") for fact in found]
        if len(set(values)) > 1:
            counts = [f"{value} ({values.count(value)} runs)" for value in sorted(set(values))]
            differing.append(f"{key}: {', '.join(counts)}")
    if differing:
        raise UserError(
            f"{whose} differ in {'; '.join(differing)}. They cannot stand in one table: "
            "move what does not belong into a folder of its own, and give that by runs=..."
        )


def check_comparable(records: Sequence[RunRecord]) -> None:
    """Refuse to pool what is not one experiment.

    Raises:
        UserError: runs differ in target language, model, decomposition, text or evaluation, or the
            runs of one arm differ in more than budget and seed.
    """
    _refuse_differences(records, _shared_facts, "the runs")
    by_arm: dict[str, list[RunRecord]] = {}
    for record in records:
        by_arm.setdefault(arm_name(record), []).append(record)
    for arm, own in by_arm.items():
        _refuse_differences(own, _arm_facts, f"the runs of '{arm}'")


# ------------------------------------------------------------------ the frame of runs


def runs_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a finished run, by arm, budget and seed; the same run done twice counts once.

    `protected_damage_nats` is the largest damage over the protected languages (English by default).

    Raises:
        UserError: see `check_comparable`.
    """
    check_comparable(records)
    rows = [
        {
            "arm": arm_name(record),
            "budget": record.budget,
            "seed": record.seed,
            "to_chance_nats": record.to_chance_nats,
            "target_ce_nats": record.edited.ce_nats[record.target_language],
            "protected_damage_nats": max(
                record.damage_nats[name] for name in record.protected_languages
            ),
            **{f"damage_{name}_nats": value for name, value in record.damage_nats.items()},
            "protected_kl_nats": record.english_kl_nats,
            "masks": record.masks,
            "trainable_parameters": record.trainable_parameters,
            "training_tokens": record.target_tokens.training,
            "selection_tokens": record.target_tokens.selection,
            "labels_tokens": record.target_tokens.labels,
            "tuning_tokens": record.target_tokens.tuning,
            "target_language": record.target_language,
            "protected_languages": " ".join(record.protected_languages),
            "chance_nats": record.chance_nats,
            "base_target_ce_nats": record.base.ce_nats[record.target_language],
            "evaluation_split": record.config.get("evaluation", {}).get("split"),
            "config_hash": record.config_hash,
        }
        for record in records
    ]
    frame = pd.DataFrame(rows).drop_duplicates(["arm", "budget", "seed"])
    order = {arm: place for place, arm in enumerate(arms_of(frame))}
    return (
        frame.assign(order=frame["arm"].map(order))
        .sort_values(["order", "budget", "seed"], ignore_index=True)
        .drop(columns="order")
    )


def damage_languages(frame: pd.DataFrame) -> list[str]:
    """Evaluated languages but the target, protected ones first; out-of-domain text left out."""
    found = [
        str(column).removeprefix("damage_").removesuffix("_nats")
        for column in frame.columns
        if str(column).startswith("damage_")
    ]
    target, protected = frame["target_language"].iloc[0], frame["protected_languages"].iloc[0]
    found = [name for name in found if name != target and not name.endswith("_ood")]
    return sorted(found, key=lambda name: name not in str(protected).split())


# ------------------------------------------------------------------ summaries


def _intervals(
    values: Float[np.ndarray, "runs measures"],
) -> dict[str, Float[np.ndarray, " measures"]]:
    """95 % bootstrap intervals of median and mean over runs; NaN where one run says nothing."""
    runs = len(values)
    if runs < 2:
        unknown = np.full(values.shape[1], np.nan)
        return dict.fromkeys(("median_low", "median_high", "mean_low", "mean_high"), unknown)
    draws = np.random.default_rng(0).integers(runs, size=(RESAMPLES, runs))
    resampled = np.sort(values.T[:, draws], axis=-1)  # measures, resamples, runs
    found: dict[str, Float[np.ndarray, " measures"]] = {}
    for name, statistics in (
        ("median", (resampled[..., (runs - 1) // 2] + resampled[..., runs // 2]) / 2),
        ("mean", resampled.mean(axis=-1)),
    ):
        low, high = np.percentile(statistics, INTERVAL_PERCENT, axis=-1)
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Median and mean over seeds with 95 % bootstrap intervals, per arm, budget and measure."""
    measures = ["to_chance_nats", "target_ce_nats", "protected_damage_nats", "protected_kl_nats"]
    measures += [str(column) for column in frame.columns if str(column).startswith("damage_")]
    parts = []
    for (arm, budget), own in frame.groupby(["arm", "budget"], sort=False):
        values = own[measures].to_numpy(dtype=np.float64)
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "budget": budget,
                    "measure": measures,
                    "seeds": len(own),
                    "median": np.median(values, axis=0),
                    "mean": np.mean(values, axis=0),
                    **_intervals(values),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def measure(summary: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one measure."""
    return summary[summary["measure"] == name].reset_index(drop=True)


def tokens_to_target(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm the smallest budget at chance, and at chance with the protected language kept.

    At chance: the median over seeds of the gap is at most 0.1 nats. Kept: the median of the
    protected damage is below 0.10 nats. Absent (NA) where no budget tried fulfils it.
    """
    rows = []
    for arm in arms_of(frame):
        medians = frame[frame["arm"] == arm].groupby("budget")[list(_CRITERIA)].median()
        at_chance = medians[medians["to_chance_nats"] <= AT_CHANCE_NATS]
        kept = at_chance[at_chance["protected_damage_nats"] < DAMAGE_NATS]
        rows.append(
            {
                "arm": arm,
                "at_chance_tokens": min(at_chance.index, default=pd.NA),
                "target_tokens": min(kept.index, default=pd.NA),
                "largest_budget": max(medians.index),
            }
        )
    return pd.DataFrame(rows).astype({"at_chance_tokens": "Int64", "target_tokens": "Int64"})


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: trainable parameters, and target-language tokens spent beside the budget."""
    names = ["trainable_parameters", "selection_tokens", "labels_tokens", "tuning_tokens"]
    return frame.groupby("arm")[names].max().loc[arms_of(frame)].reset_index()


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with every digit, atomically; dictionaries become JSON."""
    plain = table.copy()
    if "masks" in plain:
        plain["masks"] = [json.dumps(masks) for masks in plain["masks"]]
    write_text(path, plain.to_csv(index=False, lineterminator="\n"))
