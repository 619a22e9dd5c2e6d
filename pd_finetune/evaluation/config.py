"""Schema of an evaluation. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Any

from omegaconf import MISSING

from pd_finetune.schema import AtLeast, Checked, Count, Natural, Split


@dataclass
class EvaluationConfig(Checked, at="evaluation"):
    """Held-out text per language and rollouts."""

    split: Split = MISSING  # validation while tuning
    rows: Count = MISSING
    window: Annotated[int, AtLeast(2)] = MISSING  # one token predicts nothing
    batch: Natural = MISSING  # rows of a forward; 0: as suits the device
    out_of_domain: bool = MISSING
    out_of_domain_rows: Count = MISSING
    rollout_tokens: Count = MISSING
    rollouts: dict[str, str] = MISSING  # language: prompt
    metrics: dict[str, Any] = MISSING  # name: `_target_` of a function, see `evaluation.metrics`
