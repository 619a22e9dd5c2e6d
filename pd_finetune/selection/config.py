"""Schemas of selections (`_target_` names the selector) and of a harvest. No torch here."""

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.decomposition.config import DecompositionConfig
from pd_finetune.schema import Checked, Count, Natural, NotEmpty, OneOf, Precision, StageConfig
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

KEYS = "name one or more, as in selection.keys=[h.0.attn.o_proj:39]"


@dataclass
class SelectionConfig(Checked, at="selection"):
    """Which subcomponents an edit may scale."""

    _target_: str = MISSING
    name: str = MISSING

    @property
    def reads_harvest(self) -> bool:
        return True

    @property
    def reads_labels(self) -> bool:
        """Whether labels that somebody else wrote decide, where the decomposition has some."""
        return False


@dataclass
class TopSelection(SelectionConfig):
    """The `count` subcomponents of highest mean CI on the target minus the contrast language."""

    count: Count = MISSING
    contrast: str = MISSING


@dataclass
class LabelSelection(SelectionConfig):
    """The subcomponent whose label names the target language alone; `choose` settles several.

    `choose`: "effect" takes the one whose inversion hurts the target language most, "price" the one
    that takes it to chance for the least damage elsewhere, "share" the one with the highest share
    of its CI there; "only" refuses unless there is exactly one. With
    `decomposition.labels` the text decides alone, and there has to be exactly one.
    """

    choose: Annotated[str, OneOf("effect", "price", "share", "only")] = MISSING

    @property
    def reads_labels(self) -> bool:
        return True


@dataclass
class KeysSelection(SelectionConfig):
    """Explicit keys, as in h.0.attn.o_proj:39."""

    keys: Annotated[list[str], NotEmpty(KEYS)] = MISSING

    @property
    def reads_harvest(self) -> bool:
        return False  # keys given by hand work on a decomposition that was never harvested


@dataclass
class RandomSelection(SelectionConfig):
    """`count` live subcomponents drawn at random with the run's seed: the control."""

    count: Count = MISSING


@dataclass
class HarvestConfig(StageConfig):
    """Causal importance and token statistics by language: `python -m pd_finetune.harvest`."""

    model: ModelConfig = MISSING
    decomposition: DecompositionConfig = MISSING
    languages: LanguagesConfig = MISSING
    rows_per_language: Count = MISSING
    batch: Count = MISSING
    split: Annotated[str, OneOf("train", "validation")] = MISSING  # of the text; never test
    only: list[str] | None = MISSING  # sites; null: all
    token_statistics: bool = MISSING  # labels name languages alone without
    effects: bool = MISSING  # of inverting each exclusive subcomponent, by which one is chosen
    prices: Natural = MISSING  # of chance, of so many of largest effect by language
    precision: Precision = MISSING  # bfloat16 blurs which importances near 0 count as firing
    out: str | None = MISSING  # null: beside the decomposition
