"""Schemas of the stages `decompose` and `quality`, beside those of the others in `stage_configs`.

Nothing here imports torch.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from omegaconf import MISSING

from pd_finetune.config import DecompositionConfig, LanguagesConfig, ModelConfig, one_of, require
from pd_finetune.stage_configs import PRECISIONS, StageConfig, require_mixture
from pd_finetune.toy_configs import ToyConfig


@dataclass
class CIFunctionConfig:
    """Size of the causal-importance function (published: 8 blocks of 2048, 16 heads, 8192).

    kind: `transformer`, or `mlp`: the same blocks without attention (`heads` is not read).
    """

    width: int = 256
    blocks: int = 2
    heads: int = 4
    mlp_width: int = 512
    kind: str = "transformer"

    def __post_init__(self) -> None:
        one_of("ci_function.kind", self.kind, ("transformer", "mlp"))
        require(self.width >= 1, f"ci_function.width={self.width} must be at least 1")
        if self.kind == "mlp":
            return
        require(
            self.heads >= 1 and self.width >= 1 and self.width % (2 * self.heads) == 0,
            f"ci_function.width={self.width} must be a multiple of 2 * heads (heads={self.heads})",
        )


@dataclass
class RecipeConfig:
    """Losses and optimiser of a decomposition (`recipe=merged` or `recipe=paper`).

    minimality: `smooth_l0`: g^2 / (g^2 + gamma^2) and a frequency term f log2(1 + scale f);
        `p_norm`: g^p, times (1 + beta log2(1 + sum over tokens)).
    faithfulness: ||Delta||^2, `relative` to ||W||^2 (mean over sites) or per `entries` (summed).
    adversary: persistent sources that climb the reconstruction loss, per `row` or `position`.
    """

    steps: int = 5000
    rows: int = 16
    window: int = 64
    lr: float = 1e-3
    lr_final_fraction: float = 0.1
    clip: float = 0.01  # gradient norm of V and U
    recon: str = "merged"  # one masked forward a step, or "separate" ones
    minimality: str = "smooth_l0"
    minimality_coefficient: float = 3e-4
    gamma_start: float = 1.0
    gamma_end: float = 0.02
    anneal_fraction: float = 0.9  # of the training, over which gamma falls
    p_start: float = 2.0
    p_end: float = 0.4
    beta: float = 0.5
    frequency_coefficient: float = 1e-4
    frequency_scale: float = 32768.0
    frequency_half_life_steps: float = 200.0  # of the running mean of firing frequencies
    faithfulness: str = "relative"
    faithfulness_coefficient: float = 1e3
    faithfulness_every: int = 4  # evaluated at every n-th step, times n
    adversary: bool = True
    adversary_lr: float = 0.01
    adversary_warmup_fraction: float = 0.0  # of the training, over which its lr rises from 0
    adversary_betas: list[float] = field(default_factory=lambda: [0.5, 0.99])
    adversary_scope: str = "row"
    adversary_extra_climbs: int = 0  # in the separate form

    def __post_init__(self) -> None:
        one_of("recipe.recon", self.recon, ("merged", "separate"))
        one_of("recipe.minimality", self.minimality, ("smooth_l0", "p_norm"))
        one_of("recipe.faithfulness", self.faithfulness, ("relative", "entries"))
        one_of("recipe.adversary_scope", self.adversary_scope, ("row", "position"))
        for name in ("steps", "rows", "window", "faithfulness_every"):
            value = getattr(self, name)
            require(value >= 1, f"recipe.{name}={value} must be at least 1")
        for name in ("lr", "clip", "gamma_start", "gamma_end", "adversary_lr"):
            value = getattr(self, name)
            require(value > 0, f"recipe.{name}={value} must be above 0")
        require(
            0 < self.anneal_fraction <= 1,
            f"recipe.anneal_fraction={self.anneal_fraction} must be above 0 and at most 1",
        )
        for name in ("minimality_coefficient", "frequency_coefficient", "adversary_extra_climbs"):
            value = getattr(self, name)
            require(value >= 0, f"recipe.{name}={value} must not be negative")
        require(
            0 <= self.adversary_warmup_fraction <= 1,
            f"recipe.adversary_warmup_fraction={self.adversary_warmup_fraction} "
            "must be from 0 to 1",
        )
        require(
            self.frequency_half_life_steps > 0, "recipe.frequency_half_life_steps must be above 0"
        )
        betas = self.adversary_betas
        require(
            len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            f"recipe.adversary_betas={betas}: give two numbers from 0 to below 1",
        )
        if self.adversary and self.recon == "merged":
            require(
                self.rows % 2 == 0,
                f"recipe.rows={self.rows} must be even: half of the rows are adversarial",
            )


@dataclass
class QualityConfig:
    """Evidence on held-out text, gathered when a decomposition is finished."""

    rows_per_language: int = 8  # windows of validation text
    adversary_steps: int = 20
    adversary_step: float = 0.1  # of the sign steps

    def __post_init__(self) -> None:
        require(self.rows_per_language >= 1, "quality.rows_per_language must be at least 1")
        require(self.adversary_steps >= 0, "quality.adversary_steps must not be negative")


@dataclass
class DecomposeConfig(StageConfig):
    """Decompose a target's matrices into subcomponents: `python -m pd_finetune.decompose`.

    With a `toy`, its `sites` are decomposed, and `model`, `languages` and `mixture` are not read.
    """

    toy: ToyConfig | None = None
    model: ModelConfig = MISSING
    languages: LanguagesConfig = MISSING
    mixture: dict[str, float] = MISSING
    sites: dict[str, int] = MISSING  # glob pattern of matrices: C subcomponents in each
    ci_function: CIFunctionConfig = field(default_factory=CIFunctionConfig)
    recipe: RecipeConfig = MISSING
    quality: QualityConfig = field(default_factory=QualityConfig)
    # V and U start from W alone: within its own spaces, or `free` of them (toys); or from text:
    # the `pca` or `ica` of what passes, one subcomponent a neuron where C is the wider side
    initial: str = "row_space"
    initial_tokens: int = 65536  # of the training's own text, for pca and ica
    start_from: str | None = None  # a stored decomposition whose V, U and CI function begin
    checkpoint_steps: int = 250
    log_steps: int = 50
    micro_batch: int = 0  # rows that a process takes at a time; 0: its whole share of recipe.rows
    activation_checkpointing: bool = False  # compute activations twice rather than keep them
    precision: str = "auto"
    compile: bool = False
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.micro_batch >= 0, f"micro_batch={self.micro_batch} must not be negative")
        one_of("precision", self.precision, PRECISIONS)
        # a share of 0 is how an experiment leaves out what stands in decompose.yaml
        self.mixture = {name: share for name, share in self.mixture.items() if share != 0}
        require_mixture(self.mixture, self.languages.all)
        one_of("initial", self.initial, ("row_space", "free", "pca", "ica"))
        require(self.start_from != "", "start_from is empty: name a folder, or leave it out")
        require(
            self.start_from is None or self.toy is None,
            f"start_from={self.start_from} is for language models: leave it out for a toy",
        )
        require(
            self.start_from is None or self.initial == "row_space",
            f"initial={self.initial} and start_from={self.start_from} exclude each other",
        )
        if self.toy is not None:
            self.sites = dict(self.toy.sites)
        require(
            isinstance(self.sites, dict) and len(self.sites) > 0,
            "sites is empty: name patterns, as in '~sites' '+sites={h.*.mlp.c_fc: 256}'",
        )
        for pattern, count in self.sites.items():
            require(count >= 1, f"sites.{pattern}={count} must be at least 1")
        for name in ("checkpoint_steps", "log_steps", "initial_tokens"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")


@dataclass
class TrainedDecompositionConfig(DecompositionConfig):
    """Trained for the model in use and harvested before the run, once: kept in the cache.

    What is kept is found again by the model's weights, its tokenizer, the text and these values.
    A killed training goes on from its last checkpoint.
    """

    folder: str = "train"
    sites: dict[str, int] = field(default_factory=dict)  # as in DecomposeConfig; {}: all, min(d)
    mixture: dict[str, float] = field(default_factory=dict)  # {}: equal shares of languages.all
    ci_function: CIFunctionConfig = field(default_factory=CIFunctionConfig)
    recipe: RecipeConfig = MISSING
    quality: QualityConfig = field(default_factory=QualityConfig)
    initial: str = "row_space"  # as in DecomposeConfig
    initial_tokens: int = 65536
    harvest_rows: int = 256  # windows of each language
    checkpoint_steps: int = 250
    precision: str = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("decomposition.precision", self.precision, PRECISIONS)
        for name in ("harvest_rows", "checkpoint_steps"):
            value = getattr(self, name)
            require(value >= 1, f"decomposition.{name}={value} must be at least 1")
        for pattern, count in self.sites.items():
            require(count >= 1, f"decomposition.sites.{pattern}={count} must be at least 1")


# ------------------------------------------------------------------ quality


@dataclass
class LadderConfig:
    """The fresh adversary: sign steps from random starts, looked at after so many of them."""

    rungs: list[int] = field(default_factory=lambda: [20, 40, 80, 160])  # steps
    step: float = 0.1  # of a source, which lies in [0, 1]
    restarts: int = 3  # climbs, each from a random start of its own
    site_steps: int = 20  # of the climbs at one site alone

    def __post_init__(self) -> None:
        rungs = self.rungs
        require(
            len(rungs) > 0 and rungs[0] >= 1 and all(a < b for a, b in pairwise(rungs)),
            f"adversary.rungs={rungs}: give rising numbers of steps, 1 or more",
        )
        require(self.step > 0, f"adversary.step={self.step} must be above 0")
        require(self.restarts >= 1, f"adversary.restarts={self.restarts} must be at least 1")
        require(self.site_steps >= 1, f"adversary.site_steps={self.site_steps} must be at least 1")


@dataclass
class EvidenceConfig(StageConfig):
    """The whole evidence table of a stored decomposition: `python -m pd_finetune.quality`."""

    model: ModelConfig = MISSING
    decomposition: DecompositionConfig = MISSING
    languages: LanguagesConfig = MISSING
    split: str = "validation"  # of the text; never train
    rows_per_language: int = 8  # windows
    batch: int = 16  # windows in a forward
    adversary: LadderConfig = field(default_factory=LadderConfig)
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("split", self.split, ("validation", "test"))
        for name in ("rows_per_language", "batch"):
            value = getattr(self, name)
            require(value >= 1, f"{name}={value} must be at least 1")
