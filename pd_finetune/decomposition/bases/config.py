"""Schemas of the bases without training. Values stand in `configs/decomposition`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from pd_finetune.config import DecompositionConfig, one_of, require


@dataclass
class BasisConfig(DecompositionConfig):
    """Built from weights or text whenever a run needs it; `_target_` names the builder.

    sites: patterns of matrices, as in `decompose`.
    """

    folder: str = "built"  # there is none
    _target_: str = MISSING
    sites: list[str] = field(default_factory=lambda: ["*"])

    def __post_init__(self) -> None:
        require(len(self.sites) > 0, "decomposition.sites is empty: name patterns, or leave it out")


@dataclass
class RandomBasisConfig(BasisConfig):
    """`count` random directions at each site."""

    count: int = MISSING
    seed: int = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.count >= 1, f"decomposition.count={self.count} must be at least 1")


@dataclass
class LanguageBasisConfig(BasisConfig):
    """A piece for each of `languages.all`, from what sites read of each language."""

    tokens: int = MISSING  # of each language
    window: int = MISSING  # tokens in a sequence
    split: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("decomposition.split", self.split, ("train", "validation"))
        for name in ("tokens", "window"):
            value = getattr(self, name)
            require(value >= 1, f"decomposition.{name}={value} must be at least 1")


@dataclass
class LDABasisConfig(LanguageBasisConfig):
    """`ridge`: added to the covariance, as a share of its mean eigenvalue."""

    ridge: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ridge > 0, f"decomposition.ridge={self.ridge} must be above 0")
