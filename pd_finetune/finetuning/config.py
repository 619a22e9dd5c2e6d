"""Schema of one fine-tune: everything that `python -m pd_finetune.run` takes. No torch here."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from omegaconf import MISSING

from pd_finetune.decomposition.config import DecompositionConfig
from pd_finetune.edits.config import other_method
from pd_finetune.evaluation.config import EvaluationConfig
from pd_finetune.records.config import LoggerConfig
from pd_finetune.schema import (
    AtLeast,
    Checked,
    Count,
    NonNegative,
    OneOf,
    Seed,
    Threads,
    require,
)
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig, TokenBudgetConfig


@dataclass
class ObjectiveConfig(Checked, at="objective"):
    """The one objective and loop that every trained edit shares."""

    # nats of KL on protected text against nats of target cross-entropy
    kl_weight: NonNegative = MISSING
    steps: Count = MISSING
    protect_rows: Count = MISSING  # windows of protected text per step
    protect_tokens: Annotated[int, AtLeast(2)] = MISSING  # length of each
    protect_pool: Count = MISSING  # distinct windows, drawn once per seed
    lr_decay: Annotated[str, OneOf("linear", "none")] = MISSING  # linear to 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.protect_rows <= self.protect_pool,
            f"objective.protect_rows={self.protect_rows} is more than "
            f"objective.protect_pool={self.protect_pool}",
        )


@dataclass
class PathsConfig(Checked):
    """Where run directories go."""

    runs: str = MISSING


@dataclass
class ArmConfig(Checked, at="arm"):
    """What the run is one of in figures and tables: runs of one arm are pooled.

    Left out, it is the committed arm of this method and selection (`configs/arm`), or else named
    after them.
    """

    name: str = MISSING
    label: str | None = None
    order: int | None = None  # in tables and legends
    colour: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            re.fullmatch(r"[\w.+-]{1,64}", self.name) is not None,
            f"arm.name={self.name}: give letters, digits and any of _ . + -",
        )


@dataclass
class RunConfig(Checked):
    """One fine-tune."""

    model: ModelConfig = MISSING
    decomposition: DecompositionConfig = MISSING
    languages: LanguagesConfig = MISSING
    selection: Any = MISSING
    method: Any = MISSING
    arm: ArmConfig = MISSING
    token_budget: TokenBudgetConfig = MISSING
    objective: ObjectiveConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    logger: LoggerConfig = MISSING
    paths: PathsConfig = MISSING
    budget: Count = MISSING  # target-language tokens that the fine-tune sees at all
    seed: Seed = MISSING
    device: str = MISSING
    threads: Threads = MISSING  # CPU threads; 0: one for a small target, else torch's default
    progress: bool = MISSING
    shard: str | None = MISSING  # of a sweep, see `sweep.shard`; a single run has none

    def __post_init__(self) -> None:
        if isinstance(self.method, dict):
            self.method = other_method(self.method)
        super().__post_init__()
