"""Schemas of the bases without training. Values stand in `configs/decomposition`. No torch here."""

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.decomposition.config import DecompositionConfig
from pd_finetune.schema import Count, Natural, NotEmpty, OneOf, Positive


@dataclass
class BasisConfig(DecompositionConfig):
    """Built from weights or text whenever a run needs it; `_target_` names the builder."""

    _target_: str = MISSING
    sites: Annotated[list[str], NotEmpty("name patterns of matrices")] = MISSING


@dataclass
class RandomBasisConfig(BasisConfig):
    """`count` random directions at each site."""

    count: Count = MISSING
    seed: Natural = MISSING


@dataclass
class LanguageBasisConfig(BasisConfig):
    """A piece for each of `languages.all`, from what sites read of each language."""

    tokens: Count = MISSING  # of each language
    window: Count = MISSING  # tokens in a sequence
    split: Annotated[str, OneOf("train", "validation")] = MISSING


@dataclass
class LDABasisConfig(LanguageBasisConfig):
    """`ridge`: added to the covariance, as a share of its mean eigenvalue."""

    ridge: Positive = MISSING
