"""The same experiment with one word changed: other protected languages, another target language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pd_finetune.errors import UserError

VARIANTS = "variants"  # the folder of their tables, beside the page
# what a variant must share with the main runs, to be a variant of them
_SHARED = ("decomposition_hash", "chance_nats", "evaluation_split")


@dataclass(frozen=True)
class Variant:
    """Runs of one target language and one choice of protected ones.

    Args:
        main: the main runs at the budgets and seeds of this variant.
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
        """`fr-protecting-en`: of its file."""
        return f"{self.target}-protecting-{'-'.join(self.protected)}"

    @property
    def same_target(self) -> bool:
        """Only what is protected differs from the main runs."""
        return self.target == str(self.main["target_language"].iloc[0])


def variant(frame: pd.DataFrame, main: pd.DataFrame) -> Variant:
    """A frame of runs as a variant of the main ones.

    Raises:
        UserError: decomposition, vocabulary or split differ, nothing does, or no budget and seed
            is in both.
    """
    for name in _SHARED:
        found, wanted = frame[name].iloc[0], main[name].iloc[0]
        if found != wanted:
            raise UserError(f"variants: {name} is {found}, that of the runs is {wanted}")
    own, other = (
        tuple(table[name].iloc[0] for name in ("target_language", "protected_languages"))
        for table in (frame, main)
    )
    if own == other:
        raise UserError(
            f"variants: runs with target {own[0]} and protected {own[1]} are no variant of the "
            "runs, which have the same: give others, or put them into one folder"
        )
    places = set(zip(frame["budget"], frame["seed"], strict=True))
    shared = [place in places for place in zip(main["budget"], main["seed"], strict=True)]
    if not any(shared):
        raise UserError("variants: no budget and seed is in the runs too, nothing can be compared")
    return Variant(frame, main[shared].reset_index(drop=True))


def check_distinct(variants: Sequence[Variant]) -> None:
    """Refuse two variants of one target and protection.

    Raises:
        UserError: there are two.
    """
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"variants: {name} is given more than once: put its runs in one folder")
