"""Schemas of the edits that come with the package (group `method`). No torch here.

An edit of your own needs none: its YAML names a `_target_` and whatever that takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.schema import Checked, Count, Natural, NonNegative, OneOf, Positive


@dataclass
class BandConfig(Checked):
    """What was tuned for a band of budgets."""

    lr: Positive = MISSING
    kl_weight: NonNegative = MISSING


def band(bands: Mapping[str, Any], budget: int) -> Any:
    """The tuned settings for a budget: those of the largest key that is not above it."""
    numbers = sorted(map(int, bands))
    return bands[str(max((n for n in numbers if n <= budget), default=numbers[0]))]


@dataclass
class MethodConfig(Checked, at="method"):
    """How weights are changed; `_target_` names the edit's class.

    `settings` is what an edit without a schema of its own takes beside these.
    """

    _target_: str = MISSING
    name: str = MISSING
    bands: dict[str, BandConfig] = field(default_factory=dict)  # by the smallest budget of each
    # learning rate, of the budget's band, as is kl_weight, unless given; null: nothing is trained
    lr: Positive | None = None
    kl_weight: NonNegative = 0.0  # read by `objective.kl_weight`
    tuning_tokens: Natural = 0  # tokens of `tuned_on` that the tuning of lr and kl_weight saw
    tuned_on: str = ""  # language
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def selects(self) -> bool:
        """Whether the edit goes by the selected subcomponents."""
        return True

    def arguments(self) -> dict[str, Any]:
        """What the edit's class takes beside its material."""
        common = {f.name for f in fields(MethodConfig)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in common}
        return own | self.settings


def other_method(values: Mapping[str, Any]) -> MethodConfig:
    """The config of an edit whose YAML has no schema: unknown keys are its `settings`.

    Raises:
        UserError: it names no class.
    """
    known = {f.name for f in fields(MethodConfig)} - {"settings"}
    given = {key: value for key, value in values.items() if key in known}
    if not isinstance(given.get("_target_"), str):
        raise UserError("method._target_ is missing: name the edit's class, as in my.module.MyEdit")
    given.setdefault("name", given["_target_"].rpartition(".")[2])
    given["bands"] = {k: BandConfig(**v) for k, v in given.get("bands", {}).items()}
    settings = {key: value for key, value in values.items() if key not in known}
    return MethodConfig(**given, settings=settings)


@dataclass
class MaskConfig(MethodConfig):
    """One trainable scale per selected subcomponent; `start` is the value of each at step 0."""

    start: float = MISSING


@dataclass
class LoraConfig(MethodConfig):
    """LoRA by PEFT. `where`: "all" decomposed sites, or the "selected" subcomponent's matrix."""

    rank: Count = MISSING
    alpha: Positive = MISSING
    where: Annotated[str, OneOf("all", "selected")] = MISSING

    @property
    def selects(self) -> bool:
        return self.where == "selected"
