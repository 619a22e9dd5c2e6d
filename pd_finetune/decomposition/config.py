"""Schemas of a decomposition, its training and its evidence. No torch here."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.decomposition.toy_config import ToyConfig
from pd_finetune.schema import (
    Checked,
    Count,
    Counts,
    Fraction,
    Mixture,
    Natural,
    NonNegative,
    NotEmpty,
    OneOf,
    Positive,
    PositiveFraction,
    Precision,
    StageConfig,
    require,
    require_mixture,
)
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

# V and U start from W alone, within its spaces or `free` of them (toys), or from text: the `pca` or
# `ica` of what passes, one subcomponent a neuron where C is the wider side
Initial = Annotated[str, OneOf("row_space", "free", "pca", "ica")]
SITES = "name patterns, as in '~sites' '+sites={h.*.mlp.c_fc: 256}'"


@dataclass
class DecompositionConfig(Checked, at="decomposition"):
    """A stored decomposition ("embedded": the one that ships) and its harvest."""

    folder: str = MISSING


@dataclass
class CIFunctionConfig(Checked, at="ci_function"):
    """Size of the causal-importance function (published: 8 blocks of 2048, 16 heads, 8192).

    kind: `transformer`, or `mlp`: the same blocks without attention (`heads` is not read).
    """

    width: Count = MISSING
    blocks: Count = MISSING
    heads: Count = MISSING
    mlp_width: Count = MISSING
    kind: Annotated[str, OneOf("transformer", "mlp")] = "transformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.kind == "mlp" or self.width % (2 * self.heads) == 0,
            f"ci_function.width={self.width} must be a multiple of 2 * heads (heads={self.heads})",
        )


@dataclass
class RecipeConfig(Checked, at="recipe"):
    """Losses and optimiser of a decomposition (`recipe=merged` or `recipe=paper`).

    minimality: `smooth_l0`: g^2 / (g^2 + gamma^2) and a frequency term f log2(1 + scale f);
        `p_norm`: g^p, times (1 + beta log2(1 + sum over tokens)).
    faithfulness: ||Delta||^2, `relative` to ||W||^2 (mean over sites) or per `entries` (summed).
    adversary: persistent sources that climb the reconstruction loss, per `row` or `position`.
    """

    steps: Count = MISSING
    rows: Count = MISSING
    window: Count = MISSING
    lr: Positive = MISSING
    lr_final_fraction: Fraction = MISSING
    clip: Positive = MISSING  # gradient norm of V and U
    recon: Annotated[str, OneOf("merged", "separate")] = MISSING  # masked forwards in a step
    minimality: Annotated[str, OneOf("smooth_l0", "p_norm")] = MISSING
    minimality_coefficient: NonNegative = MISSING
    gamma_start: Positive = MISSING
    gamma_end: Positive = MISSING
    anneal_fraction: PositiveFraction = MISSING  # of the training, over which gamma falls
    p_start: Positive = MISSING
    p_end: Positive = MISSING
    beta: NonNegative = MISSING
    frequency_coefficient: NonNegative = MISSING
    frequency_scale: NonNegative = MISSING
    frequency_half_life_steps: Positive = MISSING  # of the running mean of firing frequencies
    faithfulness: Annotated[str, OneOf("relative", "entries")] = MISSING
    faithfulness_coefficient: NonNegative = MISSING
    faithfulness_every: Count = MISSING  # evaluated at every n-th step, times n
    adversary: bool = MISSING
    adversary_lr: Positive = MISSING
    # of the training, over which the sources' lr rises from 0
    adversary_warmup_fraction: Fraction = MISSING
    adversary_betas: list[Fraction] = MISSING
    adversary_scope: Annotated[str, OneOf("row", "position")] = MISSING
    adversary_extra_climbs: Natural = MISSING  # in the separate form

    def __post_init__(self) -> None:
        super().__post_init__()
        betas = self.adversary_betas
        require(
            len(betas) == 2 and max(betas) < 1,
            f"recipe.adversary_betas={betas}: give two numbers from 0 to below 1",
        )
        require(
            not (self.adversary and self.recon == "merged") or self.rows % 2 == 0,
            f"recipe.rows={self.rows} must be even: half of the rows are adversarial",
        )


@dataclass
class QualityConfig(Checked, at="quality"):
    """Evidence on held-out text, gathered when a decomposition is finished."""

    rows_per_language: Count = MISSING  # windows of validation text
    adversary_steps: Natural = MISSING
    adversary_step: Positive = MISSING  # of the sign steps


@dataclass
class DecomposeConfig(StageConfig):
    """Decompose a target's matrices into subcomponents: `python -m pd_finetune.decompose`.

    With a `toy`, its `sites` are decomposed, and `model`, `languages` and `mixture` are not read.
    """

    toy: ToyConfig | None = None
    model: ModelConfig = MISSING
    languages: LanguagesConfig = MISSING
    mixture: dict[str, NonNegative] = MISSING
    sites: Annotated[Counts, NotEmpty(SITES)] = MISSING
    ci_function: CIFunctionConfig = MISSING
    recipe: RecipeConfig = MISSING
    quality: QualityConfig = MISSING
    initial: Initial = MISSING
    initial_tokens: Count = MISSING  # of the training's own text, for pca and ica
    # a stored decomposition whose V, U and CI function begin
    start_from: Annotated[str, NotEmpty("name a folder, or leave it out")] | None = MISSING
    checkpoint_steps: Count = MISSING
    log_steps: Count = MISSING
    micro_batch: Natural = MISSING  # rows that a process takes at a time; 0: its whole share
    activation_checkpointing: bool = MISSING  # compute activations twice rather than keep them
    precision: Precision = MISSING
    compile: bool = MISSING
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.toy is not None:
            self.sites = dict(self.toy.sites)
        super().__post_init__()
        # a share of 0 is how an experiment leaves out what stands in decompose.yaml
        self.mixture = {name: share for name, share in self.mixture.items() if share != 0}
        require_mixture(self.mixture, self.languages.all)
        if self.start_from is not None:
            require(
                self.toy is None,
                f"start_from={self.start_from} is for language models: leave it out for a toy",
            )
            require(
                self.initial == "row_space",
                f"initial={self.initial} and start_from={self.start_from} exclude each other",
            )


@dataclass
class TrainedDecompositionConfig(DecompositionConfig):
    """Trained for the model in use and harvested before the run, once: kept in the cache.

    What is kept is found again by the model's weights, its tokenizer, the text and these values.
    A killed training goes on from its last checkpoint.
    """

    sites: Counts = MISSING  # as in DecomposeConfig; {}: all, min(d)
    mixture: Mixture = MISSING  # {}: equal shares of languages.all
    ci_function: CIFunctionConfig = MISSING
    recipe: RecipeConfig = MISSING
    quality: QualityConfig = MISSING
    initial: Initial = MISSING
    initial_tokens: Count = MISSING
    harvest_rows: Count = MISSING  # windows of each language
    checkpoint_steps: Count = MISSING
    precision: Precision = MISSING
    compile: bool = MISSING
    seed: Natural = MISSING


@dataclass
class LadderConfig(Checked, at="adversary"):
    """The fresh adversary: sign steps from random starts, looked at after so many of them."""

    rungs: Annotated[list[Count], NotEmpty()] = MISSING  # steps
    step: Positive = MISSING  # of a source, which lies in [0, 1]
    restarts: Count = MISSING  # climbs, each from a random start of its own
    site_steps: Count = MISSING  # of the climbs at one site alone

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            all(a < b for a, b in pairwise(self.rungs)),
            f"adversary.rungs={self.rungs}: give rising numbers of steps",
        )
