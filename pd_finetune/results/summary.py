"""From result records to tables: one row a run, then one row per arm, budget and measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pd_finetune.errors import UserError
from pd_finetune.files import write_text
from pd_finetune.records.record import RunRecord
from pd_finetune.results.arms import arm_name, arms_of
from pd_finetune.results.pooling import check_comparable, text_hash
from pd_finetune.text.languages import LANGUAGE_NAMES

RESAMPLES, INTERVAL_PERCENT = 10_000, (2.5, 97.5)
_STRUCTURED = ("masks", "selection")  # columns that are JSON in a CSV
# columns without which a CSV is no table of runs of this version
_READ = (
    *("arm", "budget", "seed", "train_seconds", "target_language", "protected_languages"),
    *("start", "alpha", "chance_nats", "evaluation_split", "decomposition_hash", "text_hash"),
)


# ------------------------------------------------------------------ the frame of runs


def _number(value: Any) -> float:
    """A setting as a number; NaN where the record has none."""
    return float(value) if isinstance(value, int | float) else float("nan")


def _off_target(record: RunRecord) -> float:
    """Mean damage over the languages that are neither target nor protected; code is none."""
    spared = {record.target_language, *record.protected_languages}
    names = [name for name in record.damage_nats if name in LANGUAGE_NAMES and name not in spared]
    return float(np.mean([record.damage_nats[name] for name in names])) if names else float("nan")


def _row(record: RunRecord) -> dict[str, Any]:
    config = record.config
    method, objective = (config.get(name, {}) for name in ("method", "objective"))
    return {
        "arm": arm_name(record),
        "budget": record.budget,
        "seed": record.seed,
        "to_chance_nats": record.to_chance_nats,
        "target_ce_nats": record.edited.ce_nats[record.target_language],
        "protected_damage_nats": max(
            record.damage_nats[name] for name in record.protected_languages
        ),
        "off_target_damage_nats": _off_target(record),
        **{f"damage_{name}_nats": value for name, value in record.damage_nats.items()},
        "protected_kl_nats": record.english_kl_nats,
        "masks": record.masks,
        "selection": record.selection,
        "trainable_parameters": record.trainable_parameters,
        "lr": _number(method.get("lr")),
        "kl_weight": _number(method.get("kl_weight")),
        "start": _number(method.get("start")),
        "alpha": _number(method.get("alpha")),
        "steps": record.steps,
        "protected_tokens_per_step": _number(objective.get("protect_rows"))
        * _number(objective.get("protect_tokens")),
        "training_tokens": record.target_tokens.training,
        "selection_tokens": record.target_tokens.selection,
        "labels_tokens": record.target_tokens.labels,
        "tuning_tokens": record.target_tokens.tuning,
        "load_seconds": record.seconds.load,
        "train_seconds": record.seconds.train,
        "evaluate_seconds": record.seconds.evaluate,
        "target_language": record.target_language,
        "protected_languages": " ".join(record.protected_languages),
        "chance_nats": record.chance_nats,
        "base_target_ce_nats": record.base.ce_nats[record.target_language],
        "evaluation_split": config.get("evaluation", {}).get("split"),
        "model": config.get("model", {}).get("folder"),
        "decomposition": config.get("decomposition", {}).get("folder"),
        "decomposition_hash": record.hashes.decomposition,
        "text_hash": text_hash(record),
        "config_hash": record.config_hash,
    }


def runs_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a finished run, by arm, budget and seed; the same run done twice counts once.

    `protected_damage_nats` is the largest damage over the protected languages (English by default),
    `off_target_damage_nats` the mean over the languages that are neither (code is no language).

    Raises:
        UserError: see `check_comparable`.
    """
    check_comparable(records)
    frame = pd.DataFrame([_row(record) for record in records])
    frame = frame.drop_duplicates(["arm", "budget", "seed"])
    order = {arm: place for place, arm in enumerate(arms_of(frame))}
    return (
        frame.assign(order=frame["arm"].map(order))
        .sort_values(["order", "budget", "seed"], ignore_index=True)
        .drop(columns="order")
    )


def read_frame(path: Path) -> pd.DataFrame:
    """The frame back from a `runs.csv` that `write_csv` made, every digit of it.

    Raises:
        UserError: the file is missing or was not written by this version.
    """
    try:
        frame = pd.read_csv(path)
        for name in _STRUCTURED:
            frame[name] = [json.loads(text) for text in frame[name]]
        frame[list(_READ)]
        if frame.empty:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"'{path}' is no table of runs ({type(error).__name__}: {error}): give a folder of run "
            "directories, or a runs.csv that python -m pd_finetune.figures wrote"
        ) from None
    return frame


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
    measures.append("off_target_damage_nats")
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


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm: trainable parameters, and target-language tokens spent beside the budget."""
    names = ["trainable_parameters", "selection_tokens", "labels_tokens", "tuning_tokens"]
    return frame.groupby("arm")[names].max().loc[arms_of(frame)].reset_index()


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with every digit, atomically; dictionaries become JSON."""
    plain = table.copy()
    for name in _STRUCTURED:
        if name in plain:
            plain[name] = [json.dumps(value) for value in plain[name]]
    write_text(path, plain.to_csv(index=False, lineterminator="\n"))
