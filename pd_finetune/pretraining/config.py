"""Schema of a small target's training: `python -m pd_finetune.pretrain`. No torch here."""

from dataclasses import dataclass

from omegaconf import MISSING

from pd_finetune.schema import (
    Checked,
    Count,
    Fraction,
    Mixture,
    Natural,
    NonNegative,
    Positive,
    Precision,
    StageConfig,
    require,
    require_mixture,
)
from pd_finetune.text.config import LanguagesConfig


@dataclass
class ArchitectureConfig(Checked, at="architecture"):
    """Shape of a LlamaSimpleMLP target (Goodfire's 67M model: 768 wide, 4 layers, 6 heads)."""

    vocab_size: Count = MISSING
    width: Count = MISSING
    layers: Count = MISSING
    heads: Count = MISSING
    mlp_width: Count = MISSING
    context: Count = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.width % (2 * self.heads) == 0,
            f"architecture.width={self.width} must be a multiple of 2 * heads ({2 * self.heads})",
        )


@dataclass
class OptimisationConfig(Checked, at="optimisation"):
    """AdamW with warm-up, a constant stretch and a linear decay to zero (so that it extends)."""

    steps: Count = MISSING
    batch: Count = MISSING
    lr: Positive = MISSING
    weight_decay: NonNegative = MISSING
    warmup_steps: Natural = MISSING
    decay_fraction: Fraction = MISSING
    clip: Positive = MISSING
    checkpoint_steps: Count = MISSING
    validation_steps: Count = MISSING  # validation text is looked at every so many


@dataclass
class PretrainConfig(StageConfig):
    """Train a small target from scratch."""

    languages: LanguagesConfig = MISSING
    mixture: Mixture = MISSING  # share of each language in the training windows
    architecture: ArchitectureConfig = MISSING
    optimisation: OptimisationConfig = MISSING
    tokenizer: str = MISSING  # a folder with tokenizer.json, or "train" a new one on the mixture
    tokenizer_characters: Count = MISSING
    precision: Precision = MISSING
    compile: bool = MISSING
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require_mixture(self.mixture, self.languages.all)
