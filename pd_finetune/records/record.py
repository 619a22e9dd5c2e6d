"""The result record: what one run found, in keys that other programs can rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError
from pd_finetune.files import write_json

FINISHED, FAILED = "finished", "failed"


@dataclass
class Values:
    """Cross-entropy per text, in nats per token: `de`, `en`, ..., `de_ood`, ..."""

    ce_nats: dict[str, float] = field(default_factory=dict)


@dataclass
class TargetTokens:
    """Target-language tokens spent: nothing that was seen is left out."""

    training: int = 0
    selection: int = 0
    labels: int = 0
    tuning: int = 0


@dataclass
class Seconds:
    """Wall-clock times."""

    load: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0
    total: float = 0.0


@dataclass
class Hashes:
    """Hex SHA-256 of what went in; `text` is per language."""

    target: str = ""
    decomposition: str = ""
    text: dict[str, str] = field(default_factory=dict)


@dataclass
class RunRecord:
    """One fine-tune. All losses are in nats per token.

    Args:
        damage_nats: edited minus base.
        damage_standard_error_nats: over held-out windows, paired.
        to_chance_nats: chance minus edited cross-entropy on the target language; below 0 the
            edited model is confidently wrong there.
        english_kl_nats: KL(base || edited) on the protected language, English by default (the
            mean over them where there are several; each by itself stands in `kl_nats`).
        metrics: measures of the user's own, as {metric: {"base" or "edited": {name: value}}}.
        arm: what the run is pooled as in figures and tables.
        masks: scales by key, where the edit has some; `edit` is what else it says of itself.
        selection: keys of the selected subcomponents; `selection_reason` says how they were found.
        steps: optimiser steps taken.
    """

    status: str
    config: dict[str, Any]
    config_hash: str
    arm: str
    method: str
    budget: int
    seed: int
    target_language: str
    chance_nats: float
    protected_languages: list[str] = field(default_factory=list)
    base: Values = field(default_factory=Values)
    edited: Values = field(default_factory=Values)
    damage_nats: dict[str, float] = field(default_factory=dict)
    damage_standard_error_nats: dict[str, float] = field(default_factory=dict)
    to_chance_nats: float | None = None
    english_kl_nats: float | None = None
    kl_nats: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    selection: list[str] = field(default_factory=list)
    selection_reason: str = ""
    masks: dict[str, float] = field(default_factory=dict)
    edit: dict[str, Any] = field(default_factory=dict)
    trainable_parameters: int = 0
    steps: int = 0
    target_tokens: TargetTokens = field(default_factory=TargetTokens)
    seconds: Seconds = field(default_factory=Seconds)
    peak_memory_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    device: str = ""
    hashes: Hashes = field(default_factory=Hashes)
    error: str | None = None

    def __post_init__(self) -> None:
        if self.status not in (FINISHED, FAILED):
            raise ValueError(f"status '{self.status}': possible are {FINISHED}, {FAILED}")

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as in the file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunRecord:
        """The inverse of `to_dict`; keys that a later version added are passed over.

        Raises:
            KeyError, TypeError, ValueError: a needed key is missing or of another kind.
        """
        nested = {
            "base": Values,
            "edited": Values,
            "target_tokens": TargetTokens,
            "seconds": Seconds,
            "hashes": Hashes,
        }
        known = {f.name for f in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        for name, kind in nested.items():
            if name in given:
                given[name] = kind(**given[name])
        return cls(**given)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically.

        Raises:
            ValueError: a number is NaN or infinite; nothing is written then.
        """
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a `result.json`.

        Raises:
            UserError: the file is missing or no result record.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"no result record at '{path}': {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"'{path}' is no result record ({error}): delete it, the run is then done again"
            ) from None


def _check_numbers(record: RunRecord, path: Path) -> None:
    """Refuse a finished record without the numbers that every table needs."""
    target, protected = record.target_language, record.protected_languages
    try:
        losses = [record.edited.ce_nats[target], record.base.ce_nats[target]]
        losses += [record.damage_nats[name] for name in protected]
        numbers: list[Any] = [record.chance_nats, record.to_chance_nats, record.steps]
        numbers += [*losses, *record.damage_nats.values(), *record.masks.values()]
        whole = isinstance(record.budget, int) and isinstance(record.seed, int) and bool(protected)
        right = whole and all(math.isfinite(number) for number in numbers)
    except (KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise UserError(f"'{path}' lacks losses of {target} or of what is protected: it is damaged")


def read_runs(
    root: Path, on_broken: Callable[[UserError], object] | None = None
) -> dict[Path, RunRecord]:
    """Run directory and record of all finished runs below a folder, by directory name.

    Args:
        on_broken: called with what is wrong with a file that is no record, which is then left out.

    Raises:
        UserError: a file is no result record, and there is no `on_broken`.
    """
    found = {}
    for path in sorted(root.glob("*/result.json")):
        try:
            record = RunRecord.read(path)
            if record.finished:
                _check_numbers(record, path)
                found[path.parent] = record
        except UserError as error:
            if on_broken is None:
                raise
            on_broken(error)
    return found


def read_records(
    root: Path, on_broken: Callable[[UserError], object] | None = None
) -> list[RunRecord]:
    """The records of `read_runs` alone."""
    return list(read_runs(root, on_broken).values())
