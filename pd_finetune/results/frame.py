"""The frame of runs: from result records or a `runs.csv` to one row a run, checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pd_finetune.errors import UserError
from pd_finetune.records.record import RunRecord
from pd_finetune.results.arms import arms_of, label
from pd_finetune.results.pooling import check_comparable, text_hash
from pd_finetune.text.languages import LANGUAGE_NAMES

RUN = ["arm", "budget", "seed"]  # what names a run
_STRUCTURED = {"masks": dict, "selection": list, "settings": dict}  # JSON in a CSV
# of one value in a table; the text hash covers text, evaluation and how samples are drawn
_SHARED = (
    *("target_language", "protected_languages", "chance_nats", "evaluation_split"),
    *("decomposition_hash", "text_hash"),
)
_NUMBERS = (
    *("budget", "seed", "to_chance_nats", "target_ce_nats", "protected_damage_nats"),
    *("trainable_parameters", "steps", "protected_tokens_per_step", "train_seconds"),
    *("selection_tokens", "labels_tokens", "tuning_tokens", "chance_nats", "base_target_ce_nats"),
)


def _number(value: Any) -> float:
    """A setting as a number; NaN where the record has none."""
    return float(value) if isinstance(value, int | float) else float("nan")


def _off_target(record: RunRecord) -> float:
    """Mean damage over the languages that are neither target nor protected; code is none."""
    spared = {record.target_language, *record.protected_languages}
    names = [name for name in record.damage_nats if name in LANGUAGE_NAMES and name not in spared]
    return float(np.mean([record.damage_nats[name] for name in names])) if names else float("nan")


def _settings(method: dict[str, Any]) -> dict[str, float]:
    """The numbers that an arm's method is set to."""
    return {
        name: float(value)
        for name, value in method.items()
        if isinstance(value, int | float) and not isinstance(value, bool | np.bool_)
        if name != "tuning_tokens"
    }


def _row(record: RunRecord) -> dict[str, Any]:
    config = record.config
    objective = config.get("objective", {})
    return {
        "arm": record.arm,
        "budget": record.budget,
        "seed": record.seed,
        "to_chance_nats": record.to_chance_nats,
        "target_ce_nats": record.edited.ce_nats[record.target_language],
        "protected_damage_nats": max(record.damage_nats[n] for n in record.protected_languages),
        "off_target_damage_nats": _off_target(record),
        **{f"damage_{name}_nats": value for name, value in record.damage_nats.items()},
        "protected_kl_nats": record.english_kl_nats,
        "masks": record.masks,
        "selection": record.selection,
        "settings": _settings(config.get("method", {})),
        "trainable_parameters": record.trainable_parameters,
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
        "model": config.get("model", {}).get("folder", ""),
        "decomposition": config.get("decomposition", {}).get("folder", ""),
        "decomposition_hash": record.hashes.decomposition,
        "text_hash": text_hash(record),
        "config_hash": record.config_hash,
    }


def runs_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a finished run, by arm, budget and seed; the same run done twice counts once.

    `protected_damage_nats` is the largest damage over the protected languages (English by default),
    `off_target_damage_nats` the mean over the languages that are neither (code is no language),
    `settings` the numbers that the method is set to.

    Raises:
        UserError: see `check_comparable`.
    """
    check_comparable(records)
    frame = pd.DataFrame([_row(record) for record in records]).drop_duplicates(RUN)
    order = {arm: place for place, arm in enumerate(arms_of(frame["arm"]))}
    return (
        frame.assign(order=frame["arm"].map(order))
        .sort_values(["order", "budget", "seed"], ignore_index=True)
        .drop(columns="order")
    )


def read_frame(path: Path) -> pd.DataFrame:
    """The frame back from a `runs.csv` that `write_csv` made, every digit of it.

    Raises:
        UserError: the file is missing, was not written by this version, or holds runs that do not
            belong in one table.
    """
    try:
        frame = pd.read_csv(path)
        for name, kind in _STRUCTURED.items():
            frame[name] = [json.loads(text) for text in frame[name]]
            if not all(isinstance(value, kind) for value in frame[name]):
                raise ValueError(f"in {name} stands something else")
        numbers = frame[list(_NUMBERS)].astype(np.float64)
        if frame.empty or not np.isfinite(numbers.drop(columns=list(_MAY_LACK))).all(axis=None):
            raise ValueError("runs or numbers are missing")
        texts = ["arm", "model", "decomposition"]
        frame[texts] = frame[texts].astype(object).fillna("").astype(str)
        mixed = [name for name in _SHARED if frame[name].nunique(dropna=False) > 1]
        twice = frame.duplicated(RUN)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{path}' is no table of runs ({type(error).__name__}: {error}): give a folder of run "
            "directories, or a runs.csv that python -m pd_finetune.figures wrote"
        ) from None
    if mixed:
        values = ", ".join(map(str, sorted(set(frame[mixed[0]]))))
        raise UserError(f"the runs of '{path}' differ in {mixed[0]}: {values}: one table, one each")
    if twice.any():
        arm, budget, seed = frame.loc[twice, RUN].iloc[0]
        raise UserError(f"'{path}' has the run {label(arm)}, {budget} tokens, seed {seed} twice")
    return frame


_MAY_LACK = ("protected_tokens_per_step",)  # of records of other objectives


def damage_languages(frame: pd.DataFrame) -> list[str]:
    """Evaluated languages but the target, protected ones first; out-of-domain text left out."""
    found = [
        str(column).removeprefix("damage_").removesuffix("_nats")
        for column in frame.columns
        if str(column).startswith("damage_")
    ]
    target, protected = frame["target_language"].iloc[0], protected_of(frame)
    found = [name for name in found if name != target and not name.endswith("_ood")]
    return sorted(found, key=lambda name: name not in protected)


def protected_of(frame: pd.DataFrame) -> list[str]:
    """The protected languages."""
    return str(frame["protected_languages"].iloc[0]).split()
