"""What may stand in one table: runs of one experiment, arms of one setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from pd_finetune.edits.config import band
from pd_finetune.errors import UserError
from pd_finetune.records.directory import relevant_config
from pd_finetune.records.record import RunRecord
from pd_finetune.results.arms import label

# of the config, but decided by hashes or without effect on what an arm finds
_NOT_COMPARED = (
    *("arm", "budget", "seed", "model.folder", "decomposition.folder", "languages.source"),
    "token_budget.grid",
    "evaluation",  # what matters of it is compared between all runs
    "method.tuning_tokens",
)
_EVALUATED = ("split", "rows", "window", "out_of_domain", "out_of_domain_rows")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{name}": str(value)} if inner is None else inner
    return flat


def text_hash(record: RunRecord) -> str:
    """Of everything that decides which text a run saw and was evaluated on, but for languages."""
    facts = _shared_facts(record)
    others = ("languages.", "hashes.decomposition")
    told = {name: value for name, value in facts.items() if not name.startswith(others)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


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
            "evaluation": {name: evaluation.get(name) for name in _EVALUATED},
            "token_budget": {
                name: budget.get(name) for name in ("sequence_tokens", "min_paragraph_tokens")
            },
        }
    )


def _arm_facts(record: RunRecord) -> dict[str, str]:
    """What all runs of one arm must have in common: its config but for budget and seed."""
    method = record.config.get("method", {})
    bands = method.get("bands") or {}
    tuned = band(bands, record.budget) if bands else {}
    # what is as the budget's band has it may differ between budgets
    as_tuned = all(method.get(name) == value for name, value in tuned.items())
    left_out = [*_NOT_COMPARED, *(f"method.{name}" for name in tuned if as_tuned)]
    left_out += [f"objective.{name}" for name in tuned if as_tuned]
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
            runs of one arm differ in more than budget, seed and what their bands of budgets set.
    """
    _refuse_differences(records, _shared_facts, "the runs")
    by_arm: dict[str, list[RunRecord]] = {}
    for record in records:
        by_arm.setdefault(record.arm, []).append(record)
    for arm, own in by_arm.items():
        _refuse_differences(own, _arm_facts, f"the runs of '{label(arm)}'")
