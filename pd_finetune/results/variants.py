"""The same experiment with one word changed: protected, target language, or decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pd_finetune.errors import UserError

VARIANTS = "variants"  # the folder of their tables, beside the page
# what a variant must share with the main runs, to be a variant of them; the text hash covers
# target, text, evaluation and how samples are drawn
_SHARED = ("chance_nats", "evaluation_split", "text_hash")
_SETTINGS = ("lr", "kl_weight", "start", "alpha", "steps", "protected_tokens_per_step")
_RUN = ["arm", "budget", "seed"]


@dataclass(frozen=True)
class Variant:
    """Runs of one target language, protected languages and decomposition, beside the main runs.

    Args:
        frame: its runs of those arms, budgets and seeds that the main runs have too.
        main: the main runs of the same, row by row.
    """

    frame: pd.DataFrame
    main: pd.DataFrame

    @property
    def target(self) -> str:
        return str(self.frame["target_language"].iloc[0])

    @property
    def protected(self) -> list[str]:
        return str(self.frame["protected_languages"].iloc[0]).split()

    @property
    def name(self) -> str:
        """`fr-protecting-en`, `de-protecting-en-seed1`: of its file."""
        name = f"{self.target}-protecting-{'-'.join(sorted(self.protected))}"
        return name if self.same_decomposition else f"{name}-{self.decomposition}"

    @property
    def decomposition(self) -> str:
        """The last part of its folder, or its name."""
        return Path(str(self.frame["decomposition"].iloc[0])).name

    @property
    def same_target(self) -> bool:
        return self.target == str(self.main["target_language"].iloc[0])

    @property
    def same_decomposition(self) -> bool:
        return _first(self.frame, "decomposition_hash") == _first(self.main, "decomposition_hash")


def variant(frame: pd.DataFrame, main: pd.DataFrame) -> Variant:
    """A frame of runs as a variant of the main ones, both cut to the runs that both have.

    Raises:
        UserError: text, evaluation or a setting differ, languages and decomposition do both or
            neither, or no arm, budget and seed is in both.
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
    shared = main[_RUN].merge(frame[_RUN], on=_RUN)
    if shared.empty:
        raise UserError("no arm, budget and seed is in the runs too, nothing can be compared")
    own, other = (shared.merge(table, on=_RUN) for table in (frame, main))
    for name in _SETTINGS:
        differs = own[name].ne(other[name]) & ~(own[name].isna() & other[name].isna())
        if differs.any():
            row = int(differs.to_numpy().argmax())
            raise UserError(
                f"{own['arm'][row]} at {own['budget'][row]} tokens has {name} {own[name][row]}, in "
                f"the runs it has {other[name][row]}: no setting may differ"
            )
    return Variant(own, other)


def _first(frame: pd.DataFrame, name: str) -> object:
    return frame[name].iloc[0]


def _languages(frame: pd.DataFrame) -> tuple[str, list[str]]:
    first = frame.iloc[0]
    return str(first["target_language"]), sorted(str(first["protected_languages"]).split())


def check_distinct(variants: Sequence[Variant]) -> None:
    """Refuse two variants of one target, protection and decomposition.

    Raises:
        UserError: there are two.
    """
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"variants: {name} is given more than once: put its runs in one folder")
