"""The same experiment with one word changed: protected, target language, or decomposition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pd_finetune.errors import UserError
from pd_finetune.results.arms import arms_of, label
from pd_finetune.results.frame import RUN, damage_languages, protected_of
from pd_finetune.results.summary import by_seed, paired

VARIANTS = "variants"  # the folder of their tables and pages, beside the main page
# what a variant must share with the main runs, to be a variant of them; the text hash covers
# target, text, evaluation and how samples are drawn
_SHARED = ("chance_nats", "evaluation_split", "text_hash")


@dataclass(frozen=True)
class Variant:
    """Runs of one target language, protected languages and decomposition, beside the main runs.

    Args:
        name: `fr-protecting-en`, `de-protecting-en-seed1`: of its files.
        frame: its runs of those arms, budgets and seeds that the main runs have too.
        main: the main runs of the same, row by row.
        whole: all of its runs.
    """

    name: str
    frame: pd.DataFrame
    main: pd.DataFrame
    whole: pd.DataFrame


def variant(frame: pd.DataFrame, main: pd.DataFrame) -> Variant:
    """A frame of runs as a variant of the main ones, both cut to the runs that both have.

    Raises:
        UserError: text, evaluation or a setting differ, languages and decomposition do both or
            neither, no arm, budget and seed is in both, or it would have no proper file name.
    """
    for name in _SHARED:
        found, wanted = _first(frame, name), _first(main, name)
        if found != wanted:
            raise UserError(f"{name} is {found}, that of the runs is {wanted}")
    target, protected = _languages(main)
    ours, theirs = _first(frame, "decomposition_hash"), _first(main, "decomposition_hash")
    if (ours == theirs) == (_languages(frame) == (target, protected)):
        raise UserError(
            f"target {target}, protected {', '.join(protected)} and the decomposition are those of "
            "the runs: that is no variant of them"
            if ours == theirs
            else f"decomposition_hash is {ours}, that of the runs is {theirs}, and the languages "
            "are others too: only one of them may differ"
        )
    shared = main[RUN].merge(frame[RUN], on=RUN)
    if shared.empty:
        raise UserError("no arm, budget and seed is in the runs too, nothing can be compared")
    own, other = (shared.merge(table, on=RUN) for table in (frame, main))
    for mine, its in zip(own.to_dict("records"), other.to_dict("records"), strict=True):
        found, wanted = _set(mine), _set(its)
        for name in sorted(set(found) & set(wanted)):  # what both know
            if found[name] != wanted[name]:
                raise UserError(
                    f"{label(mine['arm'])} at {mine['budget']} tokens has {name} {found[name]}, in "
                    f"the runs it has {wanted[name]}: no setting may differ"
                )
    target, protected = _languages(frame)
    name = f"{target}-protecting-{'-'.join(protected)}"
    if ours != theirs:
        name += f"-{Path(str(_first(frame, 'decomposition'))).name}"
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"'{name}' cannot be the name of a file: languages are codes such as de")
    return Variant(name, own, other, frame)


def _set(run: dict[Any, Any]) -> dict[str, float]:
    others = {name: run[name] for name in ("steps", "protected_tokens_per_step")}
    return run["settings"] | {name: value for name, value in others.items() if pd.notna(value)}


def _first(frame: pd.DataFrame, name: str) -> object:
    return frame[name].iloc[0]


def _languages(frame: pd.DataFrame) -> tuple[str, list[str]]:
    return str(_first(frame, "target_language")), sorted(protected_of(frame))


def check_distinct(variants: Sequence[Variant]) -> None:
    """Refuse two variants of one target, protection and decomposition.

    Raises:
        UserError: there are two.
    """
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"variants: {name} is given more than once: put its runs in one folder")


def changes(variant: Variant) -> pd.DataFrame:
    """Variant minus main runs, paired by seed: arm, budget, measure, value, low, high, seeds.

    Measures: `to chance`, the damage to the languages protected in the main runs, and to
    those that are neither target nor protected there.
    """
    target, kept = _first(variant.frame, "target_language"), protected_of(variant.main)
    spared = {target, _first(variant.main, "target_language"), "code", *kept}
    others = [name for name in damage_languages(variant.main) if name not in spared]
    measures = {"to chance": ["to_chance_nats"]}
    for names in (kept, others):
        columns = [f"damage_{name}_nats" for name in names if name != target]
        if columns:
            measures[f"damage {', '.join(name for name in names if name != target)}"] = columns
    own, main = (
        frame.assign(**{name: frame[columns].mean(axis=1) for name, columns in measures.items()})
        for frame in (variant.frame, variant.main)
    )
    rows = []
    for arm in arms_of(own["arm"]):
        for budget in sorted(set(own[own["arm"] == arm]["budget"])):
            for name in measures:
                found = paired(by_seed(own, arm, budget, name), by_seed(main, arm, budget, name))
                if found is not None:
                    numbers = (found.value, found.low, found.high, found.seeds)
                    rows.append((arm, budget, name, *numbers))
    return pd.DataFrame(rows, columns=[*RUN[:2], "measure", "value", "low", "high", "seeds"])
