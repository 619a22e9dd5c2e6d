"""Schemas of the stages around a run: from pretraining and decomposing to figures.

As in `config.py`, nothing here imports torch.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from pd_finetune.config import DecompositionConfig, LanguagesConfig, ModelConfig, one_of, require

PRECISIONS = ("auto", "float32", "bfloat16")


def require_mixture(mixture: dict[str, float], languages: list[str]) -> None:
    """Refuse a mixture that is empty, has a negative share, or names an unknown language."""
    require(len(mixture) > 0, "mixture is empty: give each language a share")
    for language, share in mixture.items():
        require(share > 0, f"mixture.{language}={share} must be above 0")
        require(
            language in languages,
            f"mixture.{language}: possible languages are {', '.join(languages)}",
        )


@dataclass
class StageConfig:
    """What every stage takes."""

    seed: int = 0
    device: str = "auto"
    threads: int = 0  # CPU threads; 0: torch's default

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed={self.seed} must not be negative")
        require(self.threads >= 0, f"threads={self.threads} must not be negative")


# ------------------------------------------------------------------ pretrain


@dataclass
class ArchitectureConfig:
    """Shape of a LlamaSimpleMLP target (Goodfire's 67M model: 768 wide, 4 layers, 6 heads)."""

    vocab_size: int = 4096
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 512
    context: int = 128

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "mlp_width", "context"):
            value = getattr(self, name)
            require(value >= 1, f"architecture.{name}={value} must be at least 1")
        require(
            self.width % (2 * self.heads) == 0,
            f"architecture.width={self.width} must be a multiple of 2 * heads ({2 * self.heads})",
        )


@dataclass
class OptimisationConfig:
    """AdamW with warm-up, a constant stretch and a linear decay to zero (so that it extends)."""

    steps: int = 5000
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    clip: float = 1.0
    checkpoint_steps: int = 200
    validation_steps: int = 500  # validation text is looked at every so many

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_steps", "validation_steps"):
            require(getattr(self, name) >= 1, f"optimisation.{name} must be at least 1")
        require(self.lr > 0, f"optimisation.lr={self.lr} must be above 0")


@dataclass
class PretrainConfig(StageConfig):
    """Train a small target from scratch: `python -m pd_finetune.pretrain`."""

    languages: LanguagesConfig = MISSING
    mixture: dict[str, float] = MISSING  # share of each language in the training windows
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    tokenizer: str = "train"  # a folder with tokenizer.json, or "train" a new one on the mixture
    tokenizer_characters: int = 24_000_000
    precision: str = "auto"
    compile: bool = False
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("precision", self.precision, PRECISIONS)
        require_mixture(self.mixture, self.languages.all)
        require(self.tokenizer_characters >= 1, "tokenizer_characters must be at least 1")


# ------------------------------------------------------------------ corpus


@dataclass
class CorpusConfig(StageConfig):
    """Text fetched, tokenised and counted before anything else: `python -m pd_finetune.corpus`."""

    model: ModelConfig = MISSING  # whose tokenizer it is
    languages: LanguagesConfig = MISSING


# ------------------------------------------------------------------ harvest, export, what is shown


@dataclass
class HarvestConfig(StageConfig):
    """Causal importance and token statistics by language: `python -m pd_finetune.harvest`."""

    model: ModelConfig = MISSING
    decomposition: DecompositionConfig = MISSING
    languages: LanguagesConfig = MISSING
    rows_per_language: int = 256
    batch: int = 32
    split: str = "train"  # of the text; never test
    only: list[str] | None = None  # sites; null: all
    token_statistics: bool = True  # labels name languages alone without
    effects: bool = True  # of inverting each exclusive subcomponent, by which one is chosen
    precision: str = "float32"  # bfloat16 blurs which importances near 0 count as firing
    out: str | None = None  # null: beside the decomposition

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("split", self.split, ("train", "validation"))
        one_of("precision", self.precision, PRECISIONS)
        for name in ("rows_per_language", "batch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")


@dataclass
class ExportConfig:
    """An edited model from a finished run directory: `python -m pd_finetune.export`."""

    run: str = MISSING
    out: str = MISSING
    device: str = "auto"


@dataclass
class RolloutsConfig(StageConfig):
    """Continuations of fixed prompts before and after edits: `python -m pd_finetune.rollouts`.

    Of each arm the runs at its best budget (`results/reached.py`), those of lowest seed.
    """

    runs: str = "runs"
    out: str = "figures"
    prompts: dict[str, list[str]] = field(default_factory=dict)  # by language
    tokens: int = 40  # of a continuation, at most
    samples: int = 2  # sampled continuations of each prompt, beside the greedy one
    temperature: float = 1.0
    runs_per_arm: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "samples", "runs_per_arm"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(self.temperature > 0, f"temperature={self.temperature} must be above 0")
        require(len(self.prompts) > 1, "prompts: give some for two languages or more")
        for language, prompts in self.prompts.items():
            require(len(prompts) > 0, f"prompts.{language} is empty: give one or more")


@dataclass
class FiguresConfig:
    """Figures and tables from a folder of run directories: `python -m pd_finetune.figures`.

    What is null is looked for: the harvest beside the runs' decomposition, tuning trials in
    `<out>/tuning`, rollouts in `<out>/rollouts.jsonl`, variants in `<out>/variants`.
    """

    runs: str = "runs"  # or a runs.csv that this stage wrote
    out: str = "figures"
    harvest: str | None = None
    tuning: str | None = None
    rollouts: str | None = None
    # runs with another target or other protected languages: folders of run directories, or tables
    variants: list[str] | None = None
